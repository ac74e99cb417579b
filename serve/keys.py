"""API keys, of which only SHA-256 hashes are stored. `python -m serve.keys NAME` makes one.

A key is 256 random bits, so a plain hash protects it (it cannot be guessed). A key file is TOML:

    [[keys]]
    name = "alice"
    sha256 = "9f86d0..."
    requests_per_minute = 60
"""

import hashlib
import secrets
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve.errors import ServeError
from serve.key_variables import KEYS_VARIABLE

KEY_PREFIX = "sk-distill-"


class Key(BaseModel):
    """One client's key and its permissions."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str = Field(min_length=1, max_length=64)
    """The client's name; no other part of a key is ever logged."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    """Hash of the key, 64 hex digits."""

    models: tuple[str, ...] = ()
    """Models that it may use; empty means all."""

    max_in_flight: int | None = Field(None, ge=1)
    """Most open requests at a time. Absent: no limit per key."""

    requests_per_minute: int | None = Field(None, ge=1)
    """Most requests per minute, of which a tenth (at least one) may come at once. Absent: no limit."""


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)
    keys: tuple[Key, ...] = Field(min_length=1)


def parse_keys(text: str, where: str) -> tuple[Key, ...]:
    """Keys out of a TOML text (see the module's docstring); errors name `where`.

    Raises:
        ServeError: the text is not valid, or two keys have the same name or hash.
    """
    try:
        keys = _KeyFile.model_validate(tomllib.loads(text)).keys
    except tomllib.TOMLDecodeError as error:
        raise ServeError(f"{where} is not TOML ({error}): see `python -m serve.keys NAME`") from error
    except ValidationError as error:
        # Without the text of the error, which repeats the input: it may be a key in clear text.
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ServeError(f"{where}: {wrong}. `python -m serve.keys NAME` prints an entry") from None
    for what in ("name", "sha256"):
        if len({getattr(key, what) for key in keys}) < len(keys):
            raise ServeError(f"{where}: two keys have the same {what}: every client needs its own")
    return keys


def load_keys(path: str | None, text: str | None) -> tuple[Key, ...]:
    """Keys from a file, or else from the text of an environment variable; empty where both are absent."""
    if path:
        try:
            return parse_keys(Path(path).read_text(encoding="utf-8"), path)
        except (OSError, UnicodeDecodeError) as error:
            raise ServeError(f"cannot read the keys in {path} ({type(error).__name__})") from error
    return parse_keys(text, KEYS_VARIABLE) if text else ()


def hash_key(key: str) -> str:
    """The hash under which a key is stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def find_key(keys: Sequence[Key], authorization: str) -> Key | None:
    """The key of an `Authorization: Bearer ...` header, compared in constant time; None if it is unknown."""
    scheme, _, secret = authorization.partition(" ")
    given = hash_key(secret.strip())
    found = [key for key in keys if secrets.compare_digest(key.sha256, given)]
    return found[0] if found and scheme.lower() == "bearer" else None


def main(arguments: Sequence[str]) -> int:
    """Print a new key, which is shown only once, and its entry for the key file."""
    if len(arguments) != 1:
        print("usage: python -m serve.keys NAME", file=sys.stderr)
        return 2
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    entry = Key(name=arguments[0], sha256=hash_key(key))
    print(f"# for the client, not shown again: {key}", file=sys.stderr)
    print(f'[[keys]]\nname = "{entry.name}"\nsha256 = "{entry.sha256}"')
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
