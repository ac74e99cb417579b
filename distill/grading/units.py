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

_PREFIX = r"(?:[fpnmcdhkMGT]|\\mu\s*|u)?"
_SYMBOL = r"(?:mol|Hz|Pa|eV|Wb|cal|bar|ohm|Ohm|rad|Å|Ω|\\Omega|[mgsANJWCVFTHLKhd])"
_SPELT_UNITS = """min mins hr hrs sec secs day days yr yrs year years week weeks ft in yd mi lb lbs oz mph rpm kph dB
atm ppm psi gal acre acres meter meters metre metres inch inches foot feet mile miles"""
_SPELT_UNIT = "|".join(_SPELT_UNITS.split())
_UNIT = rf"(?:(?:{_SPELT_UNIT}|{_PREFIX}{_SYMBOL})(?![A-Za-z])(?:\^\s*\{{?\s*-?\d\s*\}}?)?)"
_UPRIGHT = rf"\\text\s*\{{\s*(?:{_UNIT}|[/ ])+\s*\}}(?:\^\s*\{{?\s*-?\d\s*\}}?)?"
_BRACKETED = rf"\({_UNIT}(?:\s*(?:\\cdot)?\s*{_UNIT})*\)"
_SEQUENCE = rf"(?:{_UPRIGHT}|{_UNIT})(?:\s*(?:/|\\cdot|\*|per\s)?\s*(?:{_UPRIGHT}|{_UNIT}|{_BRACKETED}))*"
_GLUED = r"(?:eV|keV|MeV|GeV|mL|Hz|kHz|MHz|GHz|Pa|kPa|MPa|kJ|kW|kWh|kN|mol|mV|kV|mA|mW|Å|Ω|\\mu\s*\\text)"
MEASURE = re.compile(
    rf"(?:(?<=[\d)}}])(?:\s+(?=\S)|(?=\\text|{_GLUED}))|(?<=\\pi)(?:\s\s+(?=\S)|\s*(?=\\text)))(\\mu\s*(?:{_UPRIGHT})|{_SEQUENCE})\s*\.?$"
)
"""A unit in symbols behind a number: "9.8 m/s^2", "470 Ω", "23,500 kcal m^{-2} d^{-1}". A single letter needs a space
before it, or upright type: "5m" is a product. (Behind a Unicode π two spaces have become of that one.)"""
TRAILING_UNIT = re.compile(
    rf"(?<=[\d)}}i])(?:\s+|(?=\\text))(?:{_SEQUENCE}|[€£¥₹]|\$)$|(?<=\d)(?:kg|cm|mm|km|[ckm]?m\^\{{?[23]\}}?|{_GLUED})$"
)
"""As `MEASURE`, in prose."""
_COMMANDS = re.compile(r"\\(?:text|mu|cdot)|[^A-Za-zÅΩ/]+")
_PRODUCTS = frozenset({"N m", "A h", "W h", "J s"})


def measure_as_text(match: re.Match[str]) -> str:
    """A match of `MEASURE` as `\\text{ unit}`; several plain letters ("2 g h") stay a product of variables."""
    written = match.group(1)
    unit = " ".join(_COMMANDS.sub(" ", written).split())
    is_product = all(len(name) == 1 for name in unit.split()) and " " in unit and unit not in _PRODUCTS
    return match.group() if is_product and not set("/^\\") & set(written) else f"\\text{{ {unit}}}"


SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SPELT_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
SPELT = {word: value for value, word in enumerate(_SPELT_WORDS.split())}
SCALED = re.compile(rf"(.*\d)\s*(?:\\text\s*\{{\s*)?({'|'.join(SCALES)})s?(?![A-Za-z])(.*)", re.DOTALL)
BASE_WORD = re.compile(rf"_\{{?\\text\{{\s*({'|'.join(SPELT)})\s*\}}\}}?")
CLOCK = re.compile(
    r"(\d{1,2})(?::(\d{2})|(?=\s*(?:\\text\s*\{)?\s*[ap]\.?\s*m))\s*(?:\\text\s*\{)?\s*"
    r"(?:([ap])\.?\s*m\.?|h|hrs|hours|o'clock|Uhr)?\s*\}?",
    re.IGNORECASE,
)
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
    return (int(match.group(1)), int(match.group(2) or 0), (match.group(3) or "").lower()) if match else None


def same_clock(reference: tuple[int, int, str], answer: tuple[int, int, str]) -> bool:
    """Whether two times are equal; a missing a.m. or p.m. matches either, and 15:30 is 3:30 p.m."""
    if reference[:2] == answer[:2]:
        return reference[2] == answer[2] or "" in (reference[2], answer[2])
    return (reference[2] != answer[2]) and _of_24_hours(reference) == _of_24_hours(answer)


def _of_24_hours(time: tuple[int, int, str]) -> tuple[int, int]:
    hour, minute, half = time
    return (hour % 12 + (12 if half == "p" else 0) if half else hour, minute)
