"""Words that belong to a number: units, scale words, spelt-out numbers, times of day."""

import re
from fractions import Fraction

UNITS = {
    name: canonical
    for canonical, names in {
        "mm": "mm millimeter millimeters millimetre millimetres",
        "cm": "cm centimeter centimeters centimetre centimetres",
        "m": "m meter meters metre metres",
        "km": "km kilometer kilometers kilometre kilometres",
        "in": "in inch inches",
        "ft": "ft foot feet",
        "yd": "yd yard yards",
        "mi": "mi mile miles",
        "s": "s sec secs second seconds",
        "min": "min mins minute minutes",
        "h": "h hr hrs hour hours",
        "d": "day days",
        "wk": "week weeks",
        "mo": "month months",
        "yr": "yr year years",
        "mg": "mg milligram milligrams",
        "g": "g gram grams",
        "kg": "kg kilogram kilograms",
        "lb": "lb lbs pound pounds",
        "oz": "oz ounce ounces",
        "dollar": "dollar dollars usd",
        "cent": "cent cents",
        "deg": "deg degree degrees",
        "%": "percent percentage pct",
        "mph": "mph",
        "km/h": "km/h kph",
    }.items()
    for name in names.split()
}
"""Spelling -> one name per unit. Other units never affect a verdict."""

SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SPELT_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
SPELT = {word: value for value, word in enumerate(_SPELT_WORDS.split())}
SCALED = re.compile(rf"(.*\d)\s*(?:\\text\s*\{{\s*)?({'|'.join(SCALES)})s?(?![A-Za-z])(.*)", re.DOTALL)
BASE_WORD = re.compile(rf"_\{{?\\text\{{\s*({'|'.join(SPELT)})\s*\}}\}}?")
CLOCK = re.compile(r"(\d{1,2}):(\d{2})\s*(?:\\text\s*\{)?\s*(?:([ap])\.?\s*m\.?)?\s*\}?", re.IGNORECASE)
LETTERS = re.compile(r"[A-Za-z/]+")


def unit_of(text: str) -> str:
    """The canonical unit in the text behind a number ("\\text{ cm}^2" is "cm"), or "" if it is not a known one."""
    match = LETTERS.search(text.replace("\\text", "").replace("\\mbox", ""))
    return UNITS.get(match.group().casefold(), "") if match else ""


def sign_unit(text: str) -> str:
    """The unit that a sign denotes: dollars, degrees or percent."""
    if "\\$" in text:
        return "dollar"
    if "%" in text:
        return "%"
    return "deg" if "\\circ" in text or "°" in text or "\\degree" in text else ""


def unscaled(text: str) -> tuple[str, Fraction]:
    """Splits off a scale word: "2.5 million" is ("2.5", 10^6), "2.5" is ("2.5", 1)."""
    match = SCALED.fullmatch(text)
    if match is None:
        return text, Fraction(1)
    rest = match.group(3)
    closed = rest if rest.count("{") == rest.count("}") else rest.replace("}", "", 1)
    return match.group(1) + closed, Fraction(SCALES[match.group(2)])


def clock(text: str) -> tuple[int, int, str] | None:
    """Hour, minute and "a", "p" or "" of a time of day."""
    match = CLOCK.fullmatch(text.strip())
    return (int(match.group(1)), int(match.group(2)), (match.group(3) or "").lower()) if match else None


def same_clock(reference: tuple[int, int, str], answer: tuple[int, int, str]) -> bool:
    """Whether two times are equal; a missing a.m. or p.m. matches either."""
    return reference[:2] == answer[:2] and (reference[2] == answer[2] or "" in (reference[2], answer[2]))
