"""References that cannot be graded against."""

from dataclasses import dataclass

import pytest

from distill.grading import GraderPool
from distill.grading.own_gold import own_gold_faults, reference_fault


@dataclass
class Row:
    reference: str
    answer_kind: str = "math"
    entry: str = ""
    language: str = ""


@pytest.mark.parametrize(
    "reference", ["", " ", "NaN", "proof", "Not found", "$null$", '{"ground_truth": "4"}', "#### "]
)
def test_a_reference_without_an_answer(reference: str) -> None:
    assert reference_fault(reference, "math")


@pytest.mark.parametrize(
    ("reference", "kind"), [("none", "text"), ("{1, 2}", "math"), ("0", "math"), ("", "reasoning_gym")]
)
def test_what_may_be_an_answer(reference: str, kind: str) -> None:
    assert reference_fault(reference, kind) == ""


def test_every_reference_is_graded_against_itself() -> None:
    rows = [
        Row("\\frac{1}{2}"),
        Row("1,234", "number"),
        Row("(B)", "choice"),
        Row("New York", "text"),
        Row("", "reasoning_gym", "{}"),
        Row("\\frac{1}{"),
        Row("no number here", "number"),
        Row("A or B", "choice"),
    ]
    with GraderPool() as pool:
        faults = own_gold_faults(rows, pool)
        assert pool._fork_server is None, "rules suffice"
    assert [bool(fault) for fault in faults] == [False] * 5 + [True] * 3
    assert "NO_ANSWER (malformed_box" in faults[5]
    assert "ERROR (gold_unparseable" in faults[6]
