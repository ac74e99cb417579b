"""The number that a phrase states."""

import pytest

from distill.grading.number_phrases import last_number, marked_number, only_number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("minus 12 degrees", -12),
        ("12-inch", 12),
        ("5 - 3 = 2", 2),
        ("$2.5M", 2_500_000),
        ("3-4 apples", None),
        ("\\(5\\) to \\(6\\)", None),
        ("10 oder 11", None),
        ("negative twelve", -12),
    ],
)
def test_a_marked_line_states_one_number_or_none(value: str, expected: int | None) -> None:
    number = marked_number(value)
    assert (number.value if number else None) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("18 eggs a day", 18), ("12人", 12), ("十二", 12), ("3-4 apples", None), ("5x", None), ("2 of 3", None)],
)
def test_a_phrase_with_one_number(text: str, expected: int | None) -> None:
    number = only_number(text)
    assert (number.value if number else None) == expected


def test_a_text_that_ends_in_a_range_states_no_number() -> None:
    assert last_number("There were 8, and it takes 3-4 days.") is None
    number = last_number("It takes 3-4 days, so 8.")
    assert number is not None and number.value == 8
