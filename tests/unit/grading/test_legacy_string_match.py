"""The string comparison of older work, with its known faults."""

import pytest

from distill.grading import GradeRequest
from distill.grading.legacy_string_match import string_match, strip_string


def compared(completion: str, reference: str, kind: str = "math") -> str:
    return string_match(GradeRequest(completion=completion, reference=reference, answer_kind=kind))


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        ("0.5", r"\frac{1}{2}"),
        ("3/4", r"\frac{3}{4}"),
        (r"\sqrt3", r"\sqrt{3}"),
        ("x = 5", "5"),
        (r"90^\circ", "90"),
        (r"12\text{ cm}", "12"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (".25", "0.25"),
        (r"10\%", "10"),
    ],
)
def test_the_normalized_strings_of_these_are_equal(answer: str, reference: str) -> None:
    assert strip_string(answer) == strip_string(reference)
    assert compared(rf"So \boxed{{{answer}}}.", reference) == "CORRECT"


def test_floats_are_not_whole_numbers_to_it() -> None:
    assert compared(r"\boxed{27}", "27.0") == "INCORRECT"


def test_mathematics_needs_a_box_and_numbers_do_not() -> None:
    assert compared("It is 5.", "5") == "NO_ANSWER"
    assert compared("It is $1,234.", "1234", "number") == "CORRECT"
    assert compared("no idea", "1234", "number") == "NO_ANSWER"


def test_the_answer_comes_after_the_reasoning_and_other_kinds_have_no_rule() -> None:
    assert compared(r"<think>\boxed{4}</think> \boxed{5}", "5") == "CORRECT"
    assert compared(r"<think>\boxed{5}", "5") == "NO_ANSWER"
    assert compared("B", "B", "choice") == ""
