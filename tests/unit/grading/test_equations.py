"""Equations up to a factor."""

import pytest

from distill.grading.equations import same_equations


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("x+2y=3", "2x+4y=6", True),
        ("x+2y=3", "3=2y+x", True),
        ("x+2y=3", "x+2y=4", False),
        ("y=\\frac{1}{2}x", "x-2y=0", True),
        ("x=1", "x^{3}=1", None),
        ("a=b=c", "a=b", None),
        ("x=x", "y=y", None),
    ],
)
def test_equations_are_the_same_up_to_a_factor(left: str, right: str, expected: bool | None) -> None:
    assert same_equations(left, right) is expected
