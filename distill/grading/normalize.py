"""Normalizes an answer: one spelling for the many ways to write the same LaTeX. Linear time, no parsing."""

import re
import unicodedata
from functools import lru_cache

from distill.grading.unicode_math import as_latex, scripts_as_powers
from distill.grading.units import BASE_WORD, MEASURE, SCALES, SPELT, measure_as_text

REPLACEMENTS = (
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("\\tbinom", "\\binom"),
    ("\\dbinom", "\\binom"),
    ("\\left", ""),
    ("\\right", ""),
    ("\\displaystyle", ""),
    ("\\textstyle", ""),
    ("\\(", " "),
    ("\\)", " "),
    ("\\[", " "),
    ("\\]", " "),
    ("\\imath", "i"),
    ("\\jmath", "j"),
    ("\\,", " "),
    ("\\;", " "),
    ("\\:", " "),
    ("\\ ", " "),
    ("\\quad", " "),
    ("\\qquad", " "),
    ("~", " "),
    ("\\%", "%"),
    ("\\$", ""),
    ("$", ""),
    ("\\cdotp", "\\cdot"),
    ("\\lbrace", "\\{"),
    ("\\rbrace", "\\}"),
    ("\\textnormal{", "\\text{"),
    ("\\textbf{", "\\text{"),
    ("\\textrm{", "\\text{"),
    ("\\textit{", "\\text{"),
    ("\\mathrm{", "\\text{"),
    ("\\mathbf{", "\\text{"),
    ("\\mathit{", "\\text{"),
    ("\\mbox{", "\\text{"),
    ("\\operatorname{", "\\text{"),
    ("\\varnothing", "\\emptyset"),
    ("\\langle", "("),
    ("\\rangle", ")"),
    ("{:}", ":"),
    ("\\lvert", "|"),
    ("\\rvert", "|"),
    ("\\mid", "|"),
)
DEGREES = ("^{\\circ}", "^\\circ", "°", "\\degree")
DEGREE_SCALE = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|°)\s*(?:\\text\s*\{\s*)?[CF]\s*\}?$")
DECORATION = re.compile(r"\\(?:underline|color\{[a-z]+\}|textcolor\{[a-z]+\})\s*\{([^{}]*)\}")
CURRENCY = re.compile(r"^(?:\\text\s*\{\s*)?(?:USD|EUR|GBP|US|Rs\.?|[€£¥₹])\s*\}?\s*(?=[-\d.])|\s*[€£¥₹]$")
LEAD_IN = re.compile(r"^\\text\s*\{(?:(?!not\b|n't)[^{}])*(?:\bis|:|=)\s*\}\s*(?=[^\s])")
LEADING_APPROX = re.compile(r"^\s*\\(?:approx|sim|simeq)(?![a-z])\s*(?=[-\d.\\])")
MINUS_TEXT = re.compile(r"^\\text\s*\{\s*(?:minus|negative)\s*\}\s*(?=[\w.(\\])", re.IGNORECASE)
TEXT_DIGITS = re.compile(r"\\text\{([0-9A-F]+)\}(?=_)")
THIN_SPACE = re.compile(r"\\!\s*")  # "11,\\! 080" is one number
GUARDED_COMMA = re.compile(r"\s*\{\s*,\s*\}\s*")
ANGLE_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
NEEDS_NORMALIZING = re.compile(r"[^0-9A-Za-z.]")
TWICE_ESCAPED = re.compile(r"\\\\(?=[A-Za-z]{2})")
ROW_BREAK = "\\\\"  # split first: the "\\ " inside it is not a space
ARROW = re.compile(r"\\(?:left|right)(?=[a-z])")  # \leftarrow, \rightarrow are not brackets
ARGUMENT = r"(\{(?:[^{}]|\{[^{}]*\})*\}|\d|[A-Za-z]|\\(?:pi|alpha|beta|theta)(?![A-Za-z]))"
SHORT_FRACTION = re.compile(rf"\\frac\s*{ARGUMENT}\s*{ARGUMENT}")
SHORT_ROOT = re.compile(r"\\sqrt\s*(\d|[a-z])(?![A-Za-z])")
ROOT_OF = re.compile(r"\\sqrt\s*\(")
NAMES = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp"
BARE_NAME = re.compile(
    rf"\\text\s*\{{[^{{}}]*\}}|(?<![A-Za-z\\])(?:(sqrt|pi|infty)|({NAMES})"
    rf"(?=\s*[\d({{\\|^]|\s*_|\s+[A-Za-z](?![A-Za-z])))(?![A-Za-z])"
)
"""A function's name without its backslash; the text in `\\text{...}` is passed over. "18 sec" is no secant."""
NAMED_TEXT = re.compile(rf"\\text\s*\{{\s*({NAMES}|gcd|lcm)\s*\}}")
SEGMENT = re.compile(r"\\overline\s*\{\s*([A-Z]{2})\s*\}")
STYLED_LETTER = re.compile(r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf|vec|hat)\s*\{\s*([A-Za-z])\s*\}")
UPRIGHT_LETTER = re.compile(r"\\(?:mathrm|text|rm)\s*\{\s*([ie])\s*\}")
"""The imaginary unit and Euler's number in upright type; no unit has these names."""
TEXT_SCRIPT = re.compile(r"([_^])\s*\{?\s*\\text\s*\{\s*([A-Za-z0-9]+)\s*\}\s*\}?")
STARS = re.compile(r"(?<=[\w)}])\s*\*\*\s*(?=[-\w({\\])")
SIGNED_EXPONENT = re.compile(r"\^\s*(-\d+)")
REMARK = re.compile(
    r"(?<=\S)\s*(?:\\text\s*\{\s*)?\(\s*(?:\\text\s*\{\s*)?"
    r"(?:(?:choice|option|answer)\s+\(?[A-J]\)?"
    r"|(?:approximately|approx\.?|about|roughly|or about|or approximately|\\approx|i\.e\.|rounded)\b[^()]*"
    r"|\\approx[^()]*)\s*\}?\s*\)\s*\}?$",
    re.IGNORECASE,
)
"""What stands in brackets behind a value and repeats it: "(choice D)", "(approximately 0.29)"."""
SHORT_SCRIPT = re.compile(r"([_^])\{([A-Za-z0-9])\}")
LIST_COMMA = re.compile(r"(?<=\d),\s+(?=\d)")
ORDINAL = re.compile(r"(?<=\d)\s*(?:\^\s*\{?\s*(?:\\text\s*\{\s*)?(?:st|nd|rd|th)\s*\}*|(?:st|nd|rd|th)\b)")
SPACES = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|(?<!\d)\s+|\s+(?!\d)")  # "\\cos x" keeps its space
TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
TEXT_UNIT = re.compile(r"(?:(?<=[\d})%])|(?<=\\pi))\s*\\text\s*\{\s*[^{}\d]*\}(?:\^\{?\d\}?)?$")
PERCENT_WORD = re.compile(r"(?<=\d)\s*(?:\\text\s*\{\s*)?(?:percentage|percent|pct)\s*\}?$")
UNIT_WORDS = re.compile(
    r"(?<=\d)\s*((?:[A-Za-z]{3,}|cm|mm|km|kg|ft|in|mi|hr|am|pm|of)(?:[ /][A-Za-z]+)*)(?:\^\{?[23]\}?)?$"
)
WORDS = re.compile(r"\(?[A-Za-z][A-Za-z '\-]*\)?")
LONG_WORD = re.compile(r"[A-Za-z]{3}")  # shorter runs are products of variables, where ab equals ba
MATHS_WORDS = frozenset({"and", "or", "sqrt", "pi", "infty", "mod", "base", "infinity", "inf"})


def _without_spaces(text: str) -> str:
    return SPACES.sub(lambda match: f"{match.group(1)} " if match.group(1) else "", text)


def _short_fraction(match: re.Match[str]) -> str:
    return "\\frac" + "".join(part if part.startswith("{") else f"{{{part}}}" for part in match.groups())


def _bare_name(match: re.Match[str]) -> str:
    name = match.group(1) or match.group(2)
    return f"\\{name} " if name else match.group()


def _braced_root(text: str) -> str:
    """`\\sqrt(2x)` as `\\sqrt{2x}`."""
    while match := ROOT_OF.search(text):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        if depth:
            return text
        text = f"{text[: match.start()]}\\sqrt{{{text[match.end() : end - 1]}}}{text[end:]}"
    return text


def _apply_replacements(text: str) -> str:
    if ARROW.search(text):
        return text
    text = THIN_SPACE.sub("", GUARDED_COMMA.sub(",", text))
    if "\\" in text:
        text = LEADING_APPROX.sub("", text)
        text = UPRIGHT_LETTER.sub(r" \1", STYLED_LETTER.sub(r" \1", STYLED_LETTER.sub(r" \1", text)))
    for old, new in REPLACEMENTS:
        if old in text:
            text = text.replace(old, new)
    if "color" in text or "\\underline" in text:
        text = DECORATION.sub(r"\1", text)
    if "\\text" in text:
        text = MINUS_TEXT.sub("-", LEAD_IN.sub("", text.strip(), count=1))
        text = TEXT_DIGITS.sub(r"\1", text)
        text = BASE_WORD.sub(lambda match: f"_{{{SPELT[match.group(1)]}}}", text)
        text = NAMED_TEXT.sub(r"\\\1 ", TEXT_SCRIPT.sub(r"\1{\2}", text))
    return text


def _without_closing(text: str) -> str:
    """Removes punctuation that ends a sentence; the dots of a repeating decimal ("0.333...") stay."""
    return text if text.endswith("..") else text.rstrip(".,;:").strip()


def readable(text: str) -> str:
    """The answer in plain LaTeX with its white space: what Math-Verify reads, and where units are still words."""
    text = as_latex(text.replace("\0", "").strip())
    if "\\\\" in text and "\\begin" not in text:  # escaped twice; in matrices these are row breaks
        text = TWICE_ESCAPED.sub(r"\\", text)
    if not NEEDS_NORMALIZING.search(text):
        return text
    text = ROW_BREAK.join(_apply_replacements(row) for row in text.split(ROW_BREAK))
    text = STARS.sub("^", text) if "**" in text else text
    text = SIGNED_EXPONENT.sub(r"^{\1}", text) if "^" in text else text
    text = BARE_NAME.sub(_bare_name, text)
    if "\\frac" in text:
        text = SHORT_FRACTION.sub(_short_fraction, text)
    if "sqrt" in text:
        text = SHORT_ROOT.sub(r"\\sqrt{\1}", _braced_root(text))
    return text.strip()


@lru_cache(maxsize=4096)
def normalize(text: str) -> str:
    """The answer with one spelling per notation and without superfluous white space."""
    text = readable(text)
    if not NEEDS_NORMALIZING.search(text):
        return _without_closing(text)
    text = CURRENCY.sub("", _without_closing(text))
    if text.endswith((")", "}")):
        text = REMARK.sub("", text)
    text = DEGREE_SCALE.sub("°", text) if "°" in text or "\\circ" in text else text
    text = MEASURE.sub(measure_as_text, text)
    for sign in DEGREES:  # degrees are a unit behind a number, a factor inside a function
        if sign in text:
            text = text.replace(sign, "\\degree " if ANGLE_FUNCTION.search(text) else "")
    if "{" in text:
        segment = SEGMENT.fullmatch(text)
        text = segment.group(1) if segment else SHORT_SCRIPT.sub(r"\1\2", text)
    text = LIST_COMMA.sub(";", text)  # "32, 349" is two numbers, "32,349" is one
    return _without_spaces(text) if "\\text" not in text else text


DERIVATIVE = re.compile(
    r"\\frac\{(d|\\partial )(?:\^\{?(\d)\}?)?([A-Za-z])\}\{(?:d|\\partial )([A-Za-z])(?:\^\{?\2\}?)?\}"
)
VALUE_AT_ZERO = re.compile(r"(?<![A-Za-z\\])([A-Za-z])(?:_\{?([A-Za-z0-9])\}?)?\(0\)")


def with_opaque_symbols(text: str) -> str:
    """Names what is no product by one symbol: dy/dt is not a quotient of products, N(0) is not N times 0."""
    if "\\frac{d" in text or "\\frac{\\partial" in text:
        text = DERIVATIVE.sub(lambda match: f" D_{{{match[3]}{match[4]}{match[2] or 1}}}", text)
    if "(0)" in text:
        text = VALUE_AT_ZERO.sub(lambda match: f"{match[1]}_{{{match[2] or ''}at0}}", text)
    return text


def without_units(text: str) -> str:
    """A normalized answer without the unit behind its number; percent is part of the value and stays as `%`."""
    text = ORDINAL.sub("", PERCENT_WORD.sub("%", text))
    if "\\text" in text:
        text = TEXT_UNIT.sub("", text)
        text = text if "\\text" in text else _without_spaces(text)
    match = UNIT_WORDS.search(text) if text[-1:].isalpha() or text[-1:] in "23}" else None
    if (
        match
        and not match.group(1).startswith(tuple(SCALES))
        and "\\" not in match.group(1)
        and match.group(1) not in MATHS_WORDS
        and "=" not in text
    ):
        text = text[: match.start()]
    return text


def words(text: str) -> str | None:
    """The answer as folded words ("\\text{Yes}" is "yes", "Evelyn." is "evelyn"), or None if it is not words."""
    bare = TEXT.sub(r"\1", text).strip()
    if not WORDS.fullmatch(bare) or not LONG_WORD.search(bare):
        return None
    return re.sub(r"[^a-z]+", " ", bare.casefold()).strip()


def folded(text: str) -> str:
    """Free text for comparison: NFKC, without case, white space, mark-up and closing punctuation."""
    text = unicodedata.normalize("NFKC", scripts_as_powers(TEXT.sub(r"\1", text))).casefold()
    text = re.sub(r"[*_`\"'“”‘’$]", "", text)
    return re.sub(r"\s+", " ", text).strip(" .,;:!?")
