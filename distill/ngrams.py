"""Problems as tokens and n-grams, so that wording can be compared. Numbers and signs are tokens of their own."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s]")
NUMBER = re.compile(r"\d")


def tokens(text: str) -> list[str]:
    """Words in lower case, numbers, and every other sign by itself."""
    return TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def numbers(words: Sequence[str]) -> tuple[str, ...]:
    """The numbers among tokens, in order: problems that differ in one are different problems."""
    return tuple(word for word in words if NUMBER.match(word))


def ngrams(words: Sequence[str], size: int) -> list[int]:
    """64-bit hashes of every run of `size` tokens; of the whole where it is shorter."""
    if len(words) <= size:
        return [gram_hash(words)] if words else []
    return [gram_hash(words[start : start + size]) for start in range(len(words) - size + 1)]


def gram_hash(words: Sequence[str]) -> int:
    """A stable hash of a run of tokens; a whole short problem never equals a run inside a longer one by chance."""
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest(), "little")
