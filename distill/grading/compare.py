"""Settles what can be settled without a computer algebra system; everything else is None, for Math-Verify."""

from functools import lru_cache
from typing import NamedTuple

from distill.grading.clean import clean, folded, without_units, words
from distill.grading.extract import Found, find_box
from distill.grading.numbers import Number, numbers_in, parse_number, parse_text_number, same_number


class Prepared(NamedTuple):
    """An answer in the forms that comparisons read."""

    cleaned: str
    number: Number | None
    words: str | None


class Settled(NamedTuple):
    """Whether two answers are the same, and which comparison said so."""

    is_equal: bool
    how: str


def _assigned(text: str) -> str:
    """The value of "x=5"; relations other than one plain assignment stay as they are."""
    name, equals, value = text.partition("=")
    is_plain = bool(equals) and "=" not in value and name.strip().isalpha() and len(name.strip()) == 1
    return value.strip() if is_plain else text


def prepare(text: str) -> Prepared:
    """Cleans an answer and reads it as a number or as words where it is one."""
    cleaned = clean(text)
    bare = cleaned
    number = parse_number(cleaned)
    if number is None and cleaned:
        bare = without_units(_assigned(cleaned))
        number = parse_number(bare)
    return Prepared(bare if number is None else cleaned, number, None if number else words(cleaned))


def reference_text(reference: str) -> str:
    """The answer inside a reference that may be a bare value, `$...$`, or a whole solution with a box or `####`."""
    if "\\boxed" in reference or "\\fbox" in reference:
        found = find_box(reference)
        return found.text if isinstance(found, Found) else reference
    if "####" in reference:
        return reference.rpartition("####")[2].strip()
    return reference.strip()


@lru_cache(maxsize=4096)
def prepare_reference(reference: str) -> Prepared:
    """As `prepare`; kept, since one prompt is graded many times."""
    return prepare(reference_text(reference))


def compare(reference: Prepared, answer: Prepared) -> Settled | None:
    """Equal, different, or None for "not without algebra"."""
    if reference.cleaned and reference.cleaned == answer.cleaned:
        return Settled(True, "exact")
    if reference.number is not None and answer.number is not None:
        return Settled(same_number(reference.number, answer.number), "numeric")
    if reference.words and answer.words and min(len(reference.words), len(answer.words)) > 1:
        return Settled(reference.words == answer.words, "words")
    return None


def compare_text(reference: str, answer: str) -> Settled:
    """Free text, folded."""
    return Settled(bool(folded(reference)) and folded(reference) == folded(answer), "text")


def only_number(text: str) -> Number | None:
    """The number in a phrase that has exactly one ("18 eggs a day")."""
    found = numbers_in(text)
    return found[0] if len(found) == 1 else None


def marked_number(value: str) -> Number | None:
    """The number a marked line states: after its last "=", else the first one."""
    whole = parse_number(without_units(clean(value))) or parse_text_number(value)
    if whole is not None:
        return whole
    found = numbers_in(value.rpartition("=")[2]) or numbers_in(value)
    return found[0] if found else None
