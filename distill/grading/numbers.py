"""Parses numbers as exact fractions and decides when two are the same answer. No computer algebra."""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from distill.grading.units import unscaled

MAX_DIGITS = 400
"""Longer digit strings are not parsed: int() is quadratic and Python refuses more than 4,300 digits."""

PLAIN = re.compile(r"([-+]?)([1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d*)(?:\.(\d*))?(%?)")
FRACTION = re.compile(r"([-+]?)(?:\\frac\{([-+]?\d+)\}\{([-+]?\d+)\}|\(?([-+]?\d+)\)?/\(?(\d+)\)?)(%?)")
MIXED = re.compile(r"([-+]?)(\d+)(?: (\d+)/(\d+)| ?\\frac\{(\d+)\}\{(\d+)\})(%?)")
SCIENTIFIC = re.compile(r"([-+]?\d+(?:\.\d+)?)(?:\\times|\\cdot|\*|×|e)10\^(?:\{([-+]?\d{1,3})\}|([-+]?\d))")
DECIMAL_COMMA = re.compile(r"[-+]?\d+,(?:\d{1,2}|\d{4,})|[-+]?0,\d+")
E_NOTATION = re.compile(r"([-+]?\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})")
DOTS = r"(?:\.\.\.|…|\\l?dots|\\cdots)"
REPEATING = re.compile(
    r"([-+]?)(\d*)\.(\d*?)(?:\\(?:overline|bar|dot)\s*(?:\{(\d{1,12})\}|(\d))|\((\d{1,12})\)|(\d{1,6}?)\7{2,}"
    + DOTS
    + ")"
)
EUROPEAN = re.compile(r"([-+]?)(\d{1,3}(?:[. ]\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,})(%?)")
"""Points between thousands and a decimal comma, where nothing else can be meant: "2.718,5", "1.234.567"."""
INDIAN = re.compile(r"[-+]?\d{1,2}(?:,\d{2})+,\d{3}%?")
IN_TEXT = re.compile(
    r"(?<![A-Za-z0-9_.,/^√\u00c0-\u024f\u0370-\u03ff])(?<!\^\{)(?<!_\{)(?<!\d[-−:])[-−]?[$€£¥₹]?[-−]?"
    r"(?:\d{1,4} \d{1,3}/\d{1,3}(?![\d/])|\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}(?!\.?\d)"
    r"|[1-9]\d{0,2}(?: \d{3})+(?:,\d+)?(?![\d,.]*\d)"
    r"|\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?![\w]))?|\.\d+)(?!:?\d)(?:/\d+)?"
    r"(?![\^√π])(?!\s?\\(?:pi|sqrt|frac|binom)(?![a-z]))(?![xyznijabetruvwqf](?![A-Za-z]))"
    r"(?:\s?(?:\\?%|[Pp]ercent\b|pct\b|(?:hundred|thousand|million|billion|trillion)\b))?"
)
"""A number in prose. What is part of a formula is none: the 5 of "5π", "√5", "x^5" or "5x". A letter of a script that
has no spaces between words may stand beside it."""
DIGIT = re.compile(r"\d")
PERCENT_SIGN = re.compile(r"\s*(?:%|[Pp]ercent|pct)$")
CURRENCIES = {ord(sign): None for sign in "$€£¥₹"}
ROUNDING = Fraction(1, 2_000_000)
"""Half a unit of the sixth decimal, Math-Verify's own tolerance where a decimal is involved."""


class Number(NamedTuple):
    """An exact value, whether it was written as a decimal (so it may be rounded), and whether as a percentage."""

    value: Fraction
    is_decimal: bool
    is_percent: bool


def _plain(text: str) -> Number | None:
    match = PLAIN.fullmatch(text)
    if match is None:
        return None
    sign, whole, decimals, percent = match.groups()
    if not whole and not decimals:
        return None
    digits = whole.replace(",", "").replace(" ", "")
    value = Fraction(int(digits + decimals), 10 ** len(decimals)) if decimals else Fraction(int(digits))
    return Number(-value if sign == "-" else value, bool(decimals and decimals.strip("0")), bool(percent))


def _ratio(sign: str, numerator: str, denominator: str, percent: str) -> Number | None:
    if int(denominator) == 0:
        return None
    value = Fraction(int(numerator), int(denominator))
    return Number(-value if sign == "-" else value, False, bool(percent))


def _fraction(text: str) -> Number | None:
    match = FRACTION.fullmatch(text)
    if match is None:
        return None
    sign, top, bottom, top2, bottom2, percent = match.groups()
    return _ratio(sign, top or top2, bottom or bottom2, percent)


def _mixed(text: str) -> Number | None:
    match = MIXED.fullmatch(text)
    if match is None:
        return None
    sign, whole, top, bottom, top2, bottom2, percent = match.groups()
    part = _ratio("", top or top2, bottom or bottom2, percent)
    if part is None:
        return None
    value = part.value + int(whole)
    return Number(-value if sign == "-" else value, False, bool(percent))


def _scientific(text: str) -> Number | None:
    match = SCIENTIFIC.fullmatch(text.replace(" ", ""))
    if match is None:
        return None
    value = Fraction(match.group(1)) * Fraction(10) ** int(match.group(2) or match.group(3))
    return Number(value, "." in match.group(1), False)


def _e_notation(text: str) -> Number | None:
    match = E_NOTATION.fullmatch(text)
    if match is None:
        return None
    return Number(Fraction(match.group(1)) * Fraction(10) ** int(match.group(2)), "." in match.group(1), False)


def _repeating(text: str) -> Number | None:
    """`0.1\\overline{6}`, `0.(36)` or `0.333...`, exactly."""
    match = REPEATING.fullmatch(text)
    if match is None:
        return None
    sign, whole, fixed = match.groups()[:3]
    period = next(filter(None, match.groups()[3:]))
    value = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return Number(-value if sign == "-" else value, False, False)


@lru_cache(maxsize=4096)
def parse_number(text: str) -> Number | None:
    """A normalized answer as a number, or None if it is anything else."""
    if not text or len(text) > MAX_DIGITS or not text.isascii() or not DIGIT.search(text):
        return None
    found = _plain(text) or _fraction(text) or _mixed(text) or _scientific(text) or _e_notation(text)
    return found or _repeating(text) or _scaled(text)


def _scaled(text: str) -> Number | None:
    """Parses "2.5 million"; a scale word without digits is a word, not a number."""
    rest, scale = unscaled(text) if text[-1:].isalpha() or text[-1:] == "}" else (text, Fraction(1))
    number = _plain(rest.strip()) if scale != 1 else None
    return number._replace(value=number.value * scale) if number else None


def parse_text_number(text: str) -> Number | None:
    """As `parse_number`, for prose, where "2,74" has a decimal comma."""
    if text.isdecimal():
        return parse_number(text)
    bare = text.replace("\\%", "%").replace("−", "-").strip("$€£¥₹ \t*")
    bare = PERCENT_SIGN.sub("%", bare).translate(CURRENCIES).rstrip(",.")
    if DECIMAL_COMMA.fullmatch(bare):
        bare = bare.replace(",", ".")
    elif EUROPEAN.fullmatch(bare):
        bare = bare.replace(".", "").replace(" ", "").replace(",", ".")
    elif INDIAN.fullmatch(bare):
        bare = bare.replace(",", "")
    return parse_number(bare)


def _rounded_equal(left: Fraction, right: Fraction) -> bool:
    tolerance = ROUNDING
    if 0 < abs(left) < Fraction(1, 1000):  # six decimals would make every tiny value equal to zero
        tolerance = abs(left) * ROUNDING
    return abs(left - right) <= tolerance


def same_number(reference: Number, answer: Number) -> bool:
    """Equal, or equal to six decimals if one is a decimal; "28%" equals 28 and 0.28, but 0.28 does not equal 28."""
    # A decimal may be rounded, but 0.9999999 is not a rounding of a whole number in the reference.
    is_rounded = reference.is_decimal or (answer.is_decimal and reference.value.denominator != 1)
    equal = _rounded_equal if is_rounded else Fraction.__eq__
    if reference.is_percent == answer.is_percent:
        return bool(equal(reference.value, answer.value))
    percent, plain = (reference, answer) if reference.is_percent else (answer, reference)
    # A missing percent sign is accepted only if the number cannot be a share: 0.5% is not one half.
    is_sign_dropped = reference.is_percent or abs(percent.value) > 1
    return (is_sign_dropped and bool(equal(percent.value, plain.value))) or bool(
        equal(percent.value / 100, plain.value)
    )


def numbers_in(text: str) -> list[Number]:
    """Every number in a piece of prose, in order."""
    found = (parse_text_number(match.group()) for match in IN_TEXT.finditer(text))
    return [number for number in found if number is not None]
