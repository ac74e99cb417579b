"""Intervals and unions of them."""

import pytest

from distill.grading.real_sets import parse_real_set, same_real_sets


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("(1,2)\\cup[2,3)", "(1,3)", True),
        ("(1,2)\\cup(2,3)", "(1,3)", False),
        ("x<1\\text{ or }x>2", "(2,\\infty)\\cup(-\\infty,1)", True),
        ("0<x<\\sqrt{2}", "(0,\\frac{2}{\\sqrt{2}})", True),
        ("3>=x", "(-\\infty,3]", None),
        ("3\\ge x>1", "(1,3]", True),
        ("x<2", "y<2", None),
        ("\\{2\\}\\cup(3,4)", "(3,4)\\cup\\{2\\}", True),
        ("1<x>2", "x>2", None),
        ("(2,1)", "\\emptyset", None),
        ("(a,b)", "(a,b)", None),
        ("[-\\infty,1]", "x\\le 1", True),
    ],
)
def test_sets_of_reals_are_compared_by_their_pieces(left: str, right: str, expected: bool | None) -> None:
    one, other = parse_real_set(left), parse_real_set(right)
    assert (same_real_sets(one, other) if one and other else None) is expected
