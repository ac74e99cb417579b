"""The answer inside a reference."""

import pytest

from distill.grading.references import prepare_reference, reference_text


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("so \\boxed{5}", "5"),
        ("2 + 3 = 5\n#### 5", "5"),
        ("The answer is 12.", "12"),
        (" x ", "x"),
    ],
)
def test_reference_text(reference: str, expected: str) -> None:
    assert reference_text(reference) == expected


def test_groups_of_thousands_are_one_number() -> None:
    number = prepare_reference("1 234").number
    assert number is not None and number.value == 1234
