"""Verdicts on the project's own cases; extraction, comparison of values, scorers, and adversarial text."""

import json
import random
import sys
from typing import Any

import pytest

from distill.core.schema import Verdict
from distill.grading import VERIFIER_VERSION, GradeRequest, grade
from distill.grading.grade import _check_rules
from tests.fixtures.paths import CASES

GRADING_CASES = CASES / "grading.jsonl"


def cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in GRADING_CASES.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case["name"]))
def test_case(case: dict[str, Any]) -> None:
    request = GradeRequest(
        case["completion"],
        case["reference"],
        case["answer_kind"],
        finish_reason=case["finish_reason"],
        language=case.get("language", ""),
    )
    result = grade(request)
    assert result.verdict == case["expected"], f"{case['why']}: {result}"


def test_case_names_are_unique_and_have_a_reason() -> None:
    rows = cases()
    assert len({row["name"] for row in rows}) == len(rows)
    assert all(row["why"] for row in rows)


def test_version_names_every_package_that_can_change_a_verdict() -> None:
    for name in ("rules-", "math-verify-", "latex2sympy2-extended-", "antlr4-python3-runtime-", "reasoning-gym-"):
        assert name in VERIFIER_VERSION
    assert "none" not in VERIFIER_VERSION


def test_rule_names_where_and_how_and_that_a_completion_was_cut() -> None:
    assert grade(GradeRequest("\\boxed{4}", "4", "math")).rule == "box:exact"
    assert grade(GradeRequest("\\boxed{4} and th", "4", "math", finish_reason="length")).rule == "cut_box:exact"


def test_a_model_that_must_reason_has_no_answer_without_its_delimiter() -> None:
    open_ended = GradeRequest("so far \\boxed{4}", "4", "math", finish_reason="length", must_reason=True)
    assert grade(open_ended).rule == "reasoning_not_closed"


@pytest.mark.parametrize(
    ("end", "start"),
    [("</think>", "<think>"), ("<|END_THINKING|>", "<|START_THINKING|>"), ("<channel|>", "<|channel>")],
)
def test_a_number_in_reasoning_that_was_cut_is_no_answer(end: str, start: str) -> None:
    cut = GradeRequest(f"{start}thought\nso far \\boxed{{4}}", "4", "math", finish_reason="length", reasoning_end=end)
    assert grade(cut).rule == "reasoning_not_closed"


def test_unknown_kind_is_an_error() -> None:
    assert grade(GradeRequest("4", "4", "poem")).verdict == Verdict.ERROR


COMMANDS = r"""\frac \sqrt \pi \infty \cup \pm \le \ne \in \text{ \{ \} \\ \overline{ \sin \boxed{ ^\circ \$
    10^{400} e400 million five a.m. (B) and or ..."""
PIECES = [*"12.,;:|&%!^_()[]{}=<>+-*/ixy\n\0\ud800\u0663\u00bd\u03c0", *COMMANDS.split()]


def test_no_text_makes_the_rules_that_run_in_the_caller_raise() -> None:
    draw = random.Random(3)
    for _ in range(4_000):
        answer, reference = ("".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(2))
        shape = draw.choice(["\\boxed{%s}", "%s", "The answer is %s."])
        kind = draw.choice(["math", "number", "choice", "text"])
        _check_rules(GradeRequest(shape.replace("%s", answer), reference, kind))


def test_a_fault_of_the_rules_is_an_error_and_not_incorrect(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: GradeRequest) -> None:
        raise OverflowError("too large")

    monkeypatch.setattr(sys.modules["distill.grading.grade"], "_check_rules", broken)
    result = grade(GradeRequest("\\boxed{1}", "1", "math"))
    assert (result.verdict, result.rule) == (Verdict.ERROR, "fault")
