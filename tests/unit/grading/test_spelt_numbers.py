"""Numbers in words."""

from fractions import Fraction

import pytest

from distill.grading.spelt_numbers import (
    chinese_numbers,
    chinese_value,
    english_fraction,
    english_value,
    first_english_number,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("twenty-five", 25),
        ("one hundred and five", 105),
        ("two thousand three hundred forty two", 2342),
        ("zero", 0),
        ("twelve hundred", 1200),
        ("minus five", -5),
        ("one two", None),
    ],
)
def test_english(text: str, expected: int | None) -> None:
    assert english_value(text) == expected


def test_chinese() -> None:
    assert [chinese_value(text) for text in ("十五", "一百零五", "三千二百万", "二〇二四")] == [
        15,
        105,
        32_000_000,
        2024,
    ]
    assert chinese_numbers("一共有十五个") == [1, 15]


def test_one_of_them_is_no_number() -> None:
    assert first_english_number("one of them") is None
    assert first_english_number("five apples") == 5


@pytest.mark.parametrize("text", ["the same eight words", "the smaller one.", "two and a half", "three quarters of it"])
def test_words_that_count_something_else_state_no_number(text: str) -> None:
    assert first_english_number(text) is None


def test_fractions_in_words() -> None:
    fractions = [english_fraction(text) for text in ("two thirds", "half", "two and a half", "third", "five")]
    assert fractions == [Fraction(2, 3), Fraction(1, 2), Fraction(5, 2), None, None]
