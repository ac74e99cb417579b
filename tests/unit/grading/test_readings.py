"""What a stated answer may mean beside a reference."""

import pytest

from distill.grading.readings import parse_family, readings, renamed


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("30.33\\pi \\approx 95.3", "95.3", ["95.3", "30.33\\pi"]),
        ("a = 3, \\quad b = a + 4 = 7", "7", ["7"]),
        ("2x = 4 \\implies x = 2", "2", ["2"]),
        ("x = 2", "x = 2", ["x = 2"]),
        ("5n+2 \\text{ for all } n \\ge 1", "5n+2", ["5n+2"]),
        ("3k, k \\in \\mathbb{Z}", "3k", ["3k"]),
        ("\\frac{1}{x-2}, x \\neq 2", "\\frac{1}{x-2}", ["\\frac{1}{x-2}"]),
        ("\\sum_{k=1}^{20} k", "210", ["\\sum_{k=1}^{20} k"]),
    ],
)
def test_readings(text: str, reference: str, expected: list[str]) -> None:
    assert readings(text, reference) == expected


def test_one_case_of_several_is_not_the_answer() -> None:
    text = "5 \\text{ for } x>0, 6 \\text{ otherwise}"
    assert readings(text, "5") == [text]


def test_a_family_is_a_formula_and_its_whole_number() -> None:
    assert parse_family("2\\pi n, n \\in \\mathbb{Z}") == ("2\\pi n", "n", "Z")
    assert parse_family("2n+1 \\text{ where } n \\in \\mathbb{N}") == ("2n+1", "n", "N")
    assert parse_family("2\\pi n") is None
    assert parse_family("\\{n^2, n \\in \\mathbb{Z}\\}") is None


def test_a_parameter_is_renamed_unless_the_letter_is_taken() -> None:
    family = parse_family("a+2\\pi k, k \\in \\mathbb{Z}")
    assert family is not None
    assert renamed(family, "n") == "a+2\\pi n"
    assert renamed(family, "a") == "a+2\\pi k"
