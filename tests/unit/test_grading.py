"""What the verifier says about answers: the project's own cases, extraction, scorers, and text that means harm."""

import json
from pathlib import Path
from typing import Any

import pytest

from distill.grading import VERIFIER_VERSION, GradeRequest, grade
from distill.grading.expression import evaluate, same_values
from distill.grading.extract import Found, Missing, answer_part, find_box
from distill.grading.grade import Question, decide
from distill.grading.wire import grade_from_bytes, grade_to_bytes, question_from_bytes, question_to_bytes
from distill.schema import Verdict

CASES = Path(__file__).resolve().parents[1] / "cases" / "grading.jsonl"


def cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case["name"]))
def test_case(case: dict[str, Any]) -> None:
    request = GradeRequest(
        case["completion"], case["reference"], case["answer_kind"], finish_reason=case["finish_reason"]
    )
    result = grade(request)
    assert result.verdict == case["expected"], f"{case['why']}: {result}"


def test_case_names_are_unique_and_say_why() -> None:
    rows = cases()
    assert len({row["name"] for row in rows}) == len(rows)
    assert all(row["why"] for row in rows)


def test_version_names_every_package_that_can_change_a_verdict() -> None:
    for name in ("rules-", "math-verify-", "latex2sympy2-extended-", "antlr4-python3-runtime-", "reasoning-gym-"):
        assert name in VERIFIER_VERSION
    assert "none" not in VERIFIER_VERSION


def test_rule_says_where_and_how_and_that_a_completion_was_cut() -> None:
    assert grade(GradeRequest("\\boxed{4}", "4", "math")).rule == "box:exact"
    assert grade(GradeRequest("\\boxed{4} and th", "4", "math", finish_reason="length")).rule == "cut_box:exact"


def test_a_model_that_must_reason_has_no_answer_without_its_delimiter() -> None:
    open_ended = GradeRequest("so far \\boxed{4}", "4", "math", finish_reason="length", must_reason=True)
    assert grade(open_ended).rule == "reasoning_not_closed"


def test_other_delimiters_split_too() -> None:
    text = "<|begin_of_thought|>\\boxed{1}<|end_of_thought|>\\boxed{2}"
    assert answer_part(text, "<|end_of_thought|>") == "\\boxed{2}"
    assert answer_part(text[:30], "<|end_of_thought|>") is None
    assert answer_part("\\boxed{2}", "") == "\\boxed{2}"


def test_unknown_kind_is_an_error() -> None:
    assert grade(GradeRequest("4", "4", "poem")).verdict == Verdict.ERROR


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


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("\\frac{x}{2}+\\frac{x}{2}", "x", True),
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("2^{300}", "2^{300}+1", None),
        ("10^{9}", "10^{9}+1", None),
        ("x^{2}", "x^{3}", False),
    ],
)
def test_expressions_agree_at_sample_points(left: str, right: str, expected: bool | None) -> None:
    values, others = evaluate(left), evaluate(right)
    assert values is not None
    assert others is not None
    assert same_values(values, others) is expected


@pytest.mark.parametrize(
    "text", ["f(x)", "1/2x", "9^{9^{9^{9}}}", "(" * 60 + "1" + ")" * 60, "x_", "\\int x", "import os"]
)
def test_expressions_leave_the_rest_alone(text: str) -> None:
    assert evaluate(text) is None


def gym_request(task: str, answer: str, entry: dict[str, Any]) -> GradeRequest:
    return GradeRequest(
        f"<answer>{answer}</answer>", "", "reasoning_gym", entry=json.dumps({"task": task, "entry": entry})
    )


COUNTDOWN = {"question": "", "answer": "2+3", "metadata": {"numbers": [2, 3], "target": 5}}


def test_gym_answers_are_scored_by_their_task() -> None:
    assert grade(gym_request("countdown", "3+2", COUNTDOWN)).verdict == Verdict.CORRECT
    assert grade(gym_request("countdown", "3-2", COUNTDOWN)).verdict == Verdict.INCORRECT


def test_gym_rows_that_cannot_be_scored_are_errors() -> None:
    assert grade(gym_request("no_such_task", "1", COUNTDOWN)).verdict == Verdict.ERROR
    assert grade(GradeRequest("1", "", "reasoning_gym", entry="not json")).rule == "bad_entry"
    assert grade(GradeRequest("", "", "reasoning_gym", entry="{}")).verdict == Verdict.NO_ANSWER


def test_wire_keeps_every_field() -> None:
    question = decide(GradeRequest("\\boxed{x \\le 5}", "5 \\ge x", "math"))
    assert isinstance(question, Question)
    assert question_from_bytes(question_to_bytes(question)) == question
    result = grade(GradeRequest("\\boxed{4}", "4", "math"))
    assert grade_from_bytes(grade_to_bytes(result)) == result
