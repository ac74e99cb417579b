"""Where the final answer of a completion is."""

import pytest

from distill.grading.extract import Found, Missing, answer_part, find_box


def test_other_delimiters_split_too() -> None:
    text = "<|begin_of_thought|>\\boxed{1}<|end_of_thought|>\\boxed{2}"
    assert answer_part(text, "<|end_of_thought|>") == "\\boxed{2}"
    assert answer_part(text[:30], "<|end_of_thought|>") is None
    assert answer_part("\\boxed{2}", "") == "\\boxed{2}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\boxed{a{b}c}", "a{b}c"),
        ("\\boxed{\\left\\{1,2\\right.}", "\\left\\{1,2\\right."),
        ("\\boxed {9}", "9"),
        ("\\boxed{1}, \\boxed{2}", "1, 2"),
        ("\\boxed{1}. Then, after a long new paragraph about it all, \\boxed{2}", "2"),
    ],
)
def test_box_content(text: str, expected: str) -> None:
    found = find_box(text)
    assert isinstance(found, Found)
    assert found.text == expected


def test_a_box_of_a_megabyte_is_no_answer() -> None:
    assert find_box("\\boxed{" + "1" * 1_000_000 + "}") == Missing("answer_too_long")
