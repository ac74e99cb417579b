"""Which scripts a text is written in: foreign ones in a trace are a sign of a teacher that lost its language."""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

import numpy as np

_ALWAYS_FINE = frozenset({"LATIN", "GREEK", "COMBINING", "MODIFIER", "SUPERSCRIPT", "SUBSCRIPT"})
_SYMBOL_LETTERS = ("MATHEMATICAL ", "DOUBLE-STRUCK ", "SCRIPT ", "BLACK-LETTER ", "FULLWIDTH LATIN ", "MICRO ", "OHM ",
    "KELVIN ", "ANGSTROM ", "PLANCK ", "ALEF ", "BET ", "FEMININE ", "MASCULINE ", "INFORMATION ")  # fmt: skip
_LETTER = re.compile(r"[^\W\d_]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_IS_ASCII_LETTER = np.array([chr(byte).isascii() and chr(byte).isalpha() for byte in range(256)])


def foreign_share(text: str, scripts: frozenset[str]) -> float:
    """Share of a text's letters in scripts that neither its problem nor mathematics uses.

    It distinguishes scripts, not languages: it finds Chinese in an English trace, but not French.

    Args:
        text: of the trace.
        scripts: of the problem (`scripts_of`).
    """
    if text.isascii():
        return 0.0
    # UTF-8 has no ASCII bytes inside other characters. Only those are looked at one by one: there are few.
    num_ascii = int(_IS_ASCII_LETTER[np.frombuffer(text.encode(), np.uint8)].sum())
    others = {one: count for one, count in Counter(_NOT_ASCII.findall(text)).items() if _LETTER.match(one)}
    fine = _ALWAYS_FINE | scripts
    num_letters = num_ascii + sum(others.values())
    foreign = sum(count for one, count in others.items() if _script(one) not in fine)
    return foreign / num_letters if num_letters else 0.0


def scripts_of(text: str) -> frozenset[str]:
    """The scripts of a text's letters; none for ASCII, which is always fine."""
    return frozenset() if text.isascii() else frozenset(map(_script, set(_LETTER.findall(text))))


@lru_cache(maxsize=65536)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    return "LATIN" if name.startswith(_SYMBOL_LETTERS) else name.split(" ")[0].split("-")[0]
