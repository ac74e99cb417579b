"""Math-Verify behind one function. Its own SIGALRM limits are off: time and memory are the worker's to bound."""

import logging
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from types import FrameType
from typing import Any, NamedTuple

from distill.grading.numbers import DECIMAL_COMMA

RISKY = re.compile(r"\^\s*\{?[^{}]*\^|\d{5,}\s*!|!|\^\{?\s*\d{3,}|\*\*|\d{40,}|\\binom")
"""Shapes that can run out of memory or recursion inside Math-Verify, which swallows both and says "different"."""
MAX_DEPTH = 40
MAX_CHARS = 4_000

logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # one warning per process that limits are off, as wanted
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)


class FaultSwallowed(ArithmeticError):
    """Math-Verify ran out of memory or stack on the way to "different"."""


class Compared(NamedTuple):
    """Whether the two are the same, and the text that Math-Verify took for the answer ("" when it found none)."""

    is_equal: bool
    found: str


def _parse(text: str, *, boxed: bool) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse  # 1 s of sympy: only processes that need it pay

    if not boxed:
        return list(parse(text, parsing_timeout=None))
    # LaTeX only: the expression rules would find "5" inside a box of prose.
    return list(parse(f"\\boxed{{{text}}}", [LatexExtractionConfig()], parsing_timeout=None))


@lru_cache(maxsize=256)
def _parse_reference(reference: str) -> list[Any]:
    is_bare = "\\boxed" not in reference and "$" not in reference and "\\(" not in reference and "\\[" not in reference
    if DECIMAL_COMMA.fullmatch(reference):  # "1,22" is a list in LaTeX and a decimal in prose: either will do
        return [*_parse(reference, boxed=True), *_parse(reference, boxed=False)]
    return _parse(reference, boxed=is_bare) or _parse(reference, boxed=False)


def is_parseable(reference: str) -> bool:
    """Whether Math-Verify understands the reference as mathematics (and not merely as a string)."""
    return any(not isinstance(value, str) for value in _parse_reference(reference))


def _compare(reference: str, answer: str, boxed: bool) -> Compared:
    from math_verify import verify

    parsed = _parse(answer, boxed=boxed)
    if not parsed:
        return Compared(False, "")
    # The last item is the text that the rules found; in front of it, where it parsed, the expression.
    found = parsed[-1] if isinstance(parsed[-1], str) else str(parsed[-1])
    return Compared(bool(verify(_parse_reference(reference), parsed, timeout_seconds=None)), found)


def _is_risky(text: str) -> bool:
    return bool(RISKY.search(text)) or len(text) > MAX_CHARS or text.count("{") + text.count("(") > MAX_DEPTH


def _watched(function: Callable[[], Compared]) -> Compared:
    """Runs it with every raised exception in view, whoever swallows it."""
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
    """Math-Verify's comparison; `boxed` false lets it find the answer in prose."""
    if _is_risky(reference) or _is_risky(answer):
        return _watched(lambda: _compare(reference, answer, boxed))
    return _compare(reference, answer, boxed)
