"""Numbers as languages with a decimal comma write them: 3,5 and 1.234,5 and 1 234,5."""

import re

NUMBER = re.compile(
    r"(?<![\w.,])(?:(?P<whole>[1-9]\d{0,2}(?:[.\u00a0\u202f ]\d{3}){1,8}|\d+)(?:\{,\}|,)(?P<decimals>\d+)"
    r"|(?P<thousands>[1-9]\d{0,2}(?:\.\d{3})+))(?!\d|[.,]\d)"
)
"""With a comma before decimals (LaTeX writes `3{,}5` where no space is to follow it), or whole with points between
thousands. Between more numbers (1,2,3) a comma makes a list."""
NOT_DIGITS = re.compile(r"\D")


def with_points(text: str) -> str:
    """A text with its numbers written with a decimal point and without marks between thousands."""
    return NUMBER.sub(_with_point, text)


def reference_with_point(reference: str) -> str:
    """A reference that is one number with a decimal comma, with a point; any other as it is: points alone are how data
    sets write decimals in every language."""
    match = NUMBER.fullmatch(reference.strip("$%+- "))
    return with_points(reference) if match and match["decimals"] else reference


def _with_point(match: re.Match[str]) -> str:
    whole = NOT_DIGITS.sub("", match["whole"] or match["thousands"])
    return f"{whole}.{match['decimals']}" if match["decimals"] else whole
