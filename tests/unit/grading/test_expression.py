"""Expressions compared at sample points."""

import pytest

from distill.grading.expression import evaluate, same_expressions, same_values


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("\\frac{x}{2}+\\frac{x}{2}", "x", True),
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("2^{300}", "2^{300}+1", None),
        ("10^{9}", "10^{9}+1", None),
        ("x^{2}", "x^{3}", False),
    ],
)
def test_expressions_agree_at_sample_points(left: str, right: str, expected: bool | None) -> None:
    values, others = evaluate(left), evaluate(right)
    assert values is not None
    assert others is not None
    assert same_values(values, others) is expected


@pytest.mark.parametrize(
    "text", ["f(x)", "1/2x", "9^{9^{9^{9}}}", "(" * 60 + "1" + ")" * 60, "x_", "\\int x", "import os"]
)
def test_expressions_leave_the_rest_alone(text: str) -> None:
    assert evaluate(text) is None


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("1-\\frac{1}{7^{30}}", "1-\\frac{1}{7^{31}}", False),
        ("1-\\frac{\\sqrt{2}}{7^{30}}", "1-\\frac{\\sqrt{2}}{7^{31}}", False),
        ("\\frac{\\sqrt{2}}{3^{2000}}", "\\sqrt{2}\\cdot3^{-2000}", True),
        ("\\frac{1}{2004!}", "\\frac{1}{2006!}", False),
        ("\\binom{10}{2}", "45", True),
        ("2\\ln2", "\\ln4", True),
        ("\\log_2 8", "3", True),
        ("0.3333", "\\frac{1}{3}", None),
        ("M(0)e^{-4t}", "M(0)e^{4t}", False),
        ("2\\frac{dy}{dt}", "\\frac{dy}{dt}", False),
        ("\\sqrt{12}", "2\\sqrt{3}", True),
    ],
)
def test_exact_values_are_compared_exactly(left: str, right: str, expected: bool | None) -> None:
    assert same_expressions(left, right) is expected
