"""Equations that are multiples of each other: "x + 2y = 3" is "2x + 4y = 6"."""

import re
from fractions import Fraction

from distill.grading.expression import NUM_POINTS, evaluate

TERM = r"(?:(?:\d+|\\frac\{\d+\}\{\d+\})?[a-z]|\d+)"
LINEAR = re.compile(rf"[+-]?{TERM}(?:[+-]{TERM})*")


def _differences(text: str) -> tuple[Fraction, ...] | None:
    """Left minus right at the sample points, if all of these values are exact."""
    left, _, right = text.partition("=")
    values, others = evaluate(left.strip()), evaluate(right.strip())
    if values is None or others is None:
        return None
    pairs = zip(values, others, strict=True)
    exact = tuple(a - b for a, b in pairs if isinstance(a, Fraction) and isinstance(b, Fraction))
    return exact if len(exact) == NUM_POINTS else None


def _is_linear(text: str) -> bool:
    return all(LINEAR.fullmatch(side.replace(" ", "")) for side in text.split("="))


def same_equations(reference: str, answer: str) -> bool | None:
    """Whether one normalized equation is a multiple of the other; None where that is not certain.

    False is certain for linear equations only: x = 1 and x^3 = 1 have the same real solution.
    """
    if reference.count("=") != 1 or answer.count("=") != 1:
        return None
    left, right = _differences(reference), _differences(answer)
    if left is None or right is None or 0 in left or 0 in right:
        return None
    if len({a / b for a, b in zip(left, right, strict=True)}) == 1:
        return True
    return False if _is_linear(reference) and _is_linear(answer) else None
