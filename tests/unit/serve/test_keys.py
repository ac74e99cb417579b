"""Keys, pacing, and errors that give nothing away. No server and no Ray."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from serve.config import ServeConfig
from serve.errors import ServeError
from serve.keys import find_key, hash_key, load_keys, main, parse_keys

ENTRY = f'[[keys]]\nname = "alice"\nsha256 = "{hash_key("secret")}"\n'


def test_a_new_key_is_printed_once_and_its_entry_accepts_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alice"]) == 0
    printed = capsys.readouterr()
    key = printed.err.split()[-1]
    assert key not in printed.out
    (entry,) = parse_keys(printed.out, "test")
    assert find_key([entry], f"Bearer {key}") == entry


def test_keys_come_from_a_file_or_else_from_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(ENTRY)
    assert load_keys(str(file), None) == load_keys(None, ENTRY)
    assert load_keys(None, None) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[keys", "not TOML"),
        ("", "keys"),
        ('[[keys]]\nname = "a"\nsha256 = "plain-secret"', "sha256"),
        (ENTRY + ENTRY, "same name"),
        (ENTRY + ENTRY.replace("alice", "bob"), "same sha256"),
        (ENTRY + "rate = 3\n", "rate"),
    ],
)
def test_a_wrong_key_file_is_refused_without_repeating_it(text: str, words: str) -> None:
    with pytest.raises(ServeError, match=words) as error:
        parse_keys(text, "keys.toml")
    assert "plain-secret" not in str(error.value)


def test_a_missing_key_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="cannot read"):
        load_keys(str(tmp_path / "none.toml"), None)


def test_other_hosts_are_admitted_with_keys_only() -> None:
    with pytest.raises(ValidationError, match=r"serve\.keys"):
        ServeConfig(host="0.0.0.0")
    assert ServeConfig(host="0.0.0.0", keys=parse_keys(ENTRY, "test")).host == "0.0.0.0"


def test_a_hash_is_not_shown_with_the_settings() -> None:
    assert hash_key("secret") not in repr(ServeConfig(keys=parse_keys(ENTRY, "test")))
