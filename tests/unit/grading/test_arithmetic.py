"""Exact where values are rational, precise where floats cannot tell."""

from fractions import Fraction

import pytest

from distill.grading.arithmetic import FLOATS, UnsupportedError, binomial, factorial, precise


def test_rationals_stay_exact_through_roots_and_fractional_powers() -> None:
    assert FLOATS.root(Fraction(9, 4), 2) == Fraction(3, 2)
    assert FLOATS.power(Fraction(27), Fraction(2, 3)) == 9
    assert FLOATS.power(Fraction(2), Fraction(-800)) == Fraction(1, 2**800)


def test_high_precision_has_values_that_floats_have_not() -> None:
    tiny = precise().power(Fraction(1, 3), Fraction(90_000))
    assert 0 < tiny < precise().module.mpf(10) ** -40_000
    with pytest.raises(OverflowError):
        FLOATS.power(Fraction(3), Fraction(90_000))


def test_a_tower_of_powers_is_refused_at_once() -> None:
    with pytest.raises(UnsupportedError, match="tower"):
        precise().power(Fraction(9), Fraction(9**400))
    with pytest.raises(UnsupportedError, match="huge"):
        precise().apply("\\exp", Fraction(9**400))


def test_factorials_and_binomials_are_of_small_whole_numbers_only() -> None:
    assert factorial(Fraction(5)) == 120
    assert binomial(Fraction(6), Fraction(2)) == 15
    for value in (Fraction(1, 2), Fraction(-1), Fraction(10**9), 2.0):
        with pytest.raises(UnsupportedError):
            factorial(value)
