"""The number that a phrase states: "18 eggs a day", "minus 12", "a range of 3-4" (none), "twelve hundred"."""

import re
from fractions import Fraction

from distill.grading.extract import last_line
from distill.grading.normalize import TEXT, folded, normalize, without_units
from distill.grading.numbers import Number, numbers_in, parse_number, parse_text_number
from distill.grading.spelt_numbers import (
    CHINESE_NUMBER,
    ENGLISH_NUMBER,
    chinese_numbers,
    english_fraction,
    english_value,
    first_english_number,
)
from distill.grading.unicode_math import plain_characters

MINUS_WORD = re.compile(r"(?<![\d)] )\b(?i:minus|negative)\s+(?=\d)")
_CJK = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
PHRASE = re.compile(
    rf"(?:[$€£¥₹%,.;:()*\s]|[A-Za-z][A-Za-z'’/-]++(?![\w\\^])|[aA](?=\s)|{_CJK}++"
    rf"|[-+]?\d[\d.,/]*+(?!(?!{_CJK})[\w\\^]))*"
)
"""Words, marks and numbers. The alternatives are possessive and differ in their first character, so matching takes
linear time. The group's own star must not be possessive: Python before 3.11.5 then matches "5x" (CPython gh-106052)."""
FORMULA = re.compile(r"\d\s*(?:\\(?:sqrt|pi|frac|cdot|times)(?![a-z])|[π√]|\^\s*\{?\d|[xyzn](?![A-Za-z]))")
RANGE_CHARS = 120
RANGE = re.compile(r"(?i)\W{0,3}(?:between\b.*\d.*\band\b.*\d|\$?\d[\d.,]* (?:or|to) \$?\d)")
HYPHENATED = re.compile(r"(?<![\d.,=+*/^-])\d[\d.,]*\s?[-~]\s?\$?\d")
"""A range or a difference: "3-4 apples" states neither 3 nor 4."""
ENDS_IN_RANGE = re.compile(HYPHENATED.pattern + r"[\d.,]*[^\d=]*$")
DELIMITERS = re.compile(r"\\[()]|\$")
ABBREVIATED = re.compile(r"(\$\s?\d[\d,]*(?:\.\d+)?)\s?([kKMB])(?![A-Za-z])|(?<![\w.,])(\d+(?:\.\d+)?)(k)(?![A-Za-z])")
ABBREVIATIONS = {"K": "thousand", "M": "million", "B": "billion"}
HAS_DIGIT = re.compile(r"\d")
SEVERAL = re.compile(
    r"\W{0,3}[-\d]\d*+(?:[.,]\d+)*+\$?(?:\s*,\s*\$?[-\d]\d*+(?:[.,]\d+)*+\$?)*,?\s+(?:or|OR|oder|ou?|или|lub|eller)\s+(?:\w+\s+){0,2}\$?[-\d]"
    r"|\W{0,3}\d[\d.]*(?:, \d[\d.]*)+,? and \d|\W{0,3}\d[\d.]*\s*(?:或者?|または|あるいは|또는)\s*\d"
)
"""Several values to choose from, or a list: no single number."""


def spelt_number(text: str | None) -> Number | None:
    """The number of an answer that is nothing but number words."""
    if not text:
        return None
    value = english_value(text) if ENGLISH_NUMBER.fullmatch(text) else english_fraction(text)
    return None if value is None else Number(Fraction(value), False, False)


def only_number(text: str) -> Number | None:
    """The number of a phrase with exactly one ("18 eggs a day"); None for a formula ("5x", "\\sqrt{5}")."""
    bare = TEXT.sub(r" \1 ", text.replace("\\$", "$").replace("\\%", "%").replace("\\ ", " ").replace("\\,", " "))
    bare = _with_scale_words(with_minus_signs(plain_characters(bare)))
    if HYPHENATED.search(bare):
        return None
    if CHINESE_NUMBER.fullmatch(bare.strip()):
        return number_in_words(bare)
    found = numbers_in(bare)
    return found[0] if len(found) == 1 and PHRASE.fullmatch(bare) else None


def marked_number(value: str) -> Number | None:
    """The number of a marked line: after its last "=", else the first one; None for a range or a choice of two."""
    value = _with_scale_words(with_minus_signs(value))
    whole = parse_text_number(value) or parse_number(without_units(normalize(value)))
    if whole is not None:
        return whole
    if not HAS_DIGIT.search(value):
        return spelt_number(folded(value)) or number_in_words(value)
    bare = DELIMITERS.sub("", value[:RANGE_CHARS])
    if RANGE.match(bare) or SEVERAL.match(bare) or _begins_with_range(value):
        return None
    stated = value.rpartition("=")[2]
    found = numbers_in(stated) or numbers_in(value)
    return found[0] if found and not FORMULA.search(stated) else None  # "5\\pi" is not 5


def _begins_with_range(value: str) -> bool:
    """Whether the first number of a value is the lower end of a range."""
    first, span = HAS_DIGIT.search(value), HYPHENATED.search(value)
    return first is not None and span is not None and first.start() == span.start() and "=" not in value


def last_number(text: str) -> Number | None:
    """The last number in figures of a text, else the first in words of its last line; None where a range ends it."""
    if ENDS_IN_RANGE.search(text):
        return None
    return next(reversed(numbers_in(_with_scale_words(text))), None) or number_in_words(last_line(text))


def _with_scale_words(text: str) -> str:
    """A text in which "$2.5M" and "1.5k" are written out."""
    return ABBREVIATED.sub(_with_scale_word, text)


def _with_scale_word(match: re.Match[str]) -> str:
    return f"{match[1] or match[3]} {ABBREVIATIONS[(match[2] or match[4]).upper()]}"


def with_minus_signs(text: str) -> str:
    """A text in which "minus 12" and "negative 12" are "-12"."""
    return MINUS_WORD.sub("-", text) if "inus" in text or "egative" in text else text


def number_in_words(text: str) -> Number | None:
    """The first number in English words, else the last one in Chinese numerals."""
    value = first_english_number(text)
    if value is None:
        chinese = [] if text.isascii() else chinese_numbers(text)
        value = chinese[-1] if chinese else None
    return None if value is None else Number(Fraction(value), False, False)
