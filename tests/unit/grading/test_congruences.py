"""Residues of a modulus."""

from fractions import Fraction

import pytest

from distill.grading.congruences import parse_congruence, same_congruences, states_number
from distill.grading.numbers import Number


@pytest.mark.parametrize(
    ("text", "variable", "residues", "modulus"),
    [
        ("x\\equiv5\\pmod{17}", "x", (5,), 17),
        ("5\\pmod17", "", (5,), 17),
        ("-4\\text{ (mod }7)", "", (-4,), 7),
        ("x\\equiv1,3\\bmod7", "x", (1, 3), 7),
    ],
)
def test_a_congruence_is_read_in_any_spelling(
    text: str, variable: str, residues: tuple[int, ...], modulus: int
) -> None:
    assert parse_congruence(text) == (variable, residues, modulus)


@pytest.mark.parametrize("text", ["5", "2^{100}\\bmod7", "5\\pmod0", "mod7", "x\\equiv5"])
def test_other_texts_are_no_congruence(text: str) -> None:
    assert parse_congruence(text) is None


def test_classes_are_compared_by_modulus_and_unknown() -> None:
    gold, shifted, other, renamed = map(
        parse_congruence, ("x\\equiv5\\pmod7", "12\\pmod7", "5\\pmod8", "y\\equiv5\\pmod7")
    )
    assert gold and shifted and other and renamed
    assert same_congruences(gold, shifted)
    assert not same_congruences(gold, other)
    assert not same_congruences(gold, renamed)


def test_a_class_states_the_residue_that_it_is_written_with() -> None:
    congruence = parse_congruence("x\\equiv5\\pmod7")
    assert congruence
    assert states_number(congruence, Number(Fraction(5), False, False))
    assert not states_number(congruence, Number(Fraction(12), False, False))
