"""Math-Verify behind one function. Its own SIGALRM limits are off: the worker process bounds time and memory."""

import logging
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from types import FrameType
from typing import Any, NamedTuple

from distill.grading.numbers import DECIMAL_COMMA

RISKY = re.compile(r"\^\s*\{?[^{}]*\^|\d{5,}\s*!|!|\^\{?\s*\d{3,}|\*\*|\d{40,}|\\binom")
"""Shapes that can exhaust memory or stack in Math-Verify, which swallows the error and answers "different"."""
MAX_DEPTH = 40
MAX_DIGITS = 600
"""Digits in which two exact constants may agree and still be known to differ."""
MAX_CHARS = 4_000

logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns once per process that its limits are off
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)


class FaultSwallowed(ArithmeticError):
    """Math-Verify answered "different" because it ran out of memory or stack."""


class Compared(NamedTuple):
    """Whether the two are equal, and the text that Math-Verify extracted as the answer ("" if none)."""

    is_equal: bool
    found: str


def _parse(text: str, *, boxed: bool) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse  # imports sympy, 1 s: only in processes that need it

    if not boxed:
        return list(parse(text, parsing_timeout=None))
    # LaTeX only: the expression rules would find "5" in a box that holds prose.
    return list(parse(f"\\boxed{{{text}}}", [LatexExtractionConfig()], parsing_timeout=None))


@lru_cache(maxsize=256)
def _parse_reference(reference: str) -> list[Any]:
    is_bare = "\\boxed" not in reference and "$" not in reference and "\\(" not in reference and "\\[" not in reference
    if DECIMAL_COMMA.fullmatch(reference):  # "1,22" is a list in LaTeX and a decimal in prose: accept either
        return [*_parse(reference, boxed=True), *_parse(reference, boxed=False)]
    return _parse(reference, boxed=is_bare) or _parse(reference, boxed=False)


def is_parseable(reference: str) -> bool:
    """Whether Math-Verify parses the reference as mathematics (and not merely as a string)."""
    return any(not isinstance(value, str) for value in _parse_reference(reference))


def _compare(reference: str, answer: str, boxed: bool) -> Compared:
    from math_verify import verify

    parsed = _parse(answer, boxed=boxed)
    if not parsed:
        return Compared(False, "")
    # The last item is the extracted text; before it stands the expression, if it parsed.
    found = parsed[-1] if isinstance(parsed[-1], str) else str(parsed[-1])
    gold = _parse_reference(reference)
    is_equal = bool(verify(gold, parsed, timeout_seconds=None)) and not _are_apart(gold, parsed)
    return Compared(is_equal, found)


def _are_apart(gold: list[Any], answer: list[Any]) -> bool:
    """Whether two exact constants differ after all: Math-Verify compares six decimals."""
    from sympy import Expr, Float

    pairs = [[item for item in side if isinstance(item, Expr)] for side in (gold, answer)]
    if not all(len(items) == 1 and items[0].is_number and not items[0].has(Float) for items in pairs):
        return False
    left, right = pairs[0][0], pairs[1][0]
    if left == right:
        return False
    difference = (left - right).evalf(10, maxn=MAX_DIGITS)
    is_known = bool(difference.is_number) and getattr(difference, "_prec", 1) > 1  # precision 1: nothing but noise
    return is_known and bool(difference != 0)


def _is_risky(text: str) -> bool:
    return bool(RISKY.search(text)) or len(text) > MAX_CHARS or text.count("{") + text.count("(") > MAX_DEPTH


def _reraise_swallowed(function: Callable[[], Compared]) -> Compared:
    """Runs a comparison and raises memory and recursion errors that were swallowed inside it.

    Raises:
        FaultSwallowed: the result is "different" and such an error occurred on the way.
    """
    faults: list[str] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_lines = False
        if event == "exception" and issubclass(argument[0], (MemoryError, RecursionError)):
            faults.append(argument[0].__name__)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = function()
    finally:
        sys.settrace(before)
    if faults and not result.is_equal:
        raise FaultSwallowed(faults[0])
    return result


def compare(reference: str, answer: str, *, boxed: bool = True) -> Compared:
    """Math-Verify's comparison. With `boxed` false, `answer` is prose in which Math-Verify finds the answer."""
    if _is_risky(reference) or _is_risky(answer):
        return _reraise_swallowed(lambda: _compare(reference, answer, boxed))
    return _compare(reference, answer, boxed)
