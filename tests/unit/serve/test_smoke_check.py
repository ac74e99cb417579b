"""How much two answers to the same question agree."""

import pytest

from serve.smoke_check import agreement, is_same


@pytest.mark.parametrize(
    ("expected", "found", "share"), [("abcd", "abcd", 1.0), ("abcd", "abxx", 0.5), ("ab", "abcd", 0.5), ("", "", 1.0)]
)
def test_agreement_is_the_length_of_the_common_beginning(expected: str, found: str, share: float) -> None:
    assert agreement(expected, found) == share


def test_one_equal_answer_is_enough_and_late_differences_are_ignored() -> None:
    assert is_same([0.0, 1.0, 0.1]) and is_same([0.6, 0.5])
    assert not is_same([0.2, 0.3, 0.4])
