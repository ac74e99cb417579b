"""What the verifier says about answers: the project's own cases, extraction, scorers, and text that means harm."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.core.schema import Verdict
from distill.grading import VERIFIER_VERSION, GradeRequest, grade
from distill.grading.equations import same_equations
from distill.grading.expression import evaluate, same_values
from distill.grading.extract import Found, Missing, answer_part, find_box
from distill.grading.grade import Question, _decide, decide
from distill.grading.messages import grade_from_bytes, grade_to_bytes, question_from_bytes, question_to_bytes
from distill.grading.numbers import numbers_in, parse_number, same_number
from distill.grading.real_sets import parse_reals, same_reals

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
    question = decide(GradeRequest("\\boxed{2\\ln 2}", "\\ln 4", "math"))
    assert isinstance(question, Question)
    assert question_from_bytes(question_to_bytes(question)) == question
    result = grade(GradeRequest("\\boxed{4}", "4", "math"))
    assert grade_from_bytes(grade_to_bytes(result)) == result


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("(1,2)\\cup[2,3)", "(1,3)", True),
        ("(1,2)\\cup(2,3)", "(1,3)", False),
        ("x<1\\text{ or }x>2", "(2,\\infty)\\cup(-\\infty,1)", True),
        ("0<x<\\sqrt{2}", "(0,\\frac{2}{\\sqrt{2}})", True),
        ("3>=x", "(-\\infty,3]", None),
        ("3\\ge x>1", "(1,3]", True),
        ("x<2", "y<2", None),
        ("\\{2\\}\\cup(3,4)", "(3,4)\\cup\\{2\\}", True),
        ("1<x>2", "x>2", None),
        ("(2,1)", "\\emptyset", None),
        ("(a,b)", "(a,b)", None),
        ("[-\\infty,1]", "x\\le 1", True),
    ],
)
def test_sets_of_reals_are_compared_by_their_pieces(left: str, right: str, expected: bool | None) -> None:
    one, other = parse_reals(left), parse_reals(right)
    assert (same_reals(one, other) if one and other else None) is expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("x+2y=3", "2x+4y=6", True),
        ("x+2y=3", "3=2y+x", True),
        ("x+2y=3", "x+2y=4", False),
        ("y=\\frac{1}{2}x", "x-2y=0", True),
        ("x=1", "x^{3}=1", None),
        ("a=b=c", "a=b", None),
        ("x=x", "y=y", None),
    ],
)
def test_equations_are_the_same_up_to_a_factor(left: str, right: str, expected: bool | None) -> None:
    assert same_equations(left, right) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.\\overline{142857}", "1/7"),
        ("-1.2\\overline{3}", "-37/30"),
        ("0.(36)", "4/11"),
        ("0.666...", "2/3"),
        ("2.5million", "2500000"),
        ("1.5e6", "1500000"),
        ("2e-3", "1/500"),
        ("5...", None),
        ("e5", None),
        ("million", None),
        ("0.\\overline{}", None),
    ],
)
def test_numbers_are_exact(text: str, expected: str | None) -> None:
    number = parse_number(text)
    assert (number and str(number.value)) == expected


def test_a_time_in_prose_is_no_number() -> None:
    found = numbers_in("at 7:30 we had 12 of 3.5, then 5: 6")
    assert [str(number.value) for number in found] == [
        "12",
        "7/2",
        "5",
        "6",
    ]


def test_no_rounding_makes_a_whole_number() -> None:
    whole, close, third = (parse_number(text) for text in ("1", "0.9999999", "0.333333"))
    assert whole and close and third
    assert not same_number(whole, close)
    assert same_number(third._replace(value=third.value + third.value / 10**6), third)


COMMANDS = r"""\frac \sqrt \pi \infty \cup \pm \le \ne \in \text{ \{ \} \\ \overline{ \sin \boxed{ ^\circ \$
    10^{400} e400 million five a.m. (B) and or ..."""
PIECES = [*"12.,;:|&%!^_()[]{}=<>+-*/ixy\n\0\ud800\u0663\u00bd\u03c0", *COMMANDS.split()]


def test_no_text_makes_the_half_that_runs_in_the_caller_raise() -> None:
    draw = random.Random(3)
    for _ in range(4_000):
        answer, reference = ("".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(2))
        shape = draw.choice(["\\boxed{%s}", "%s", "The answer is %s."])
        kind = draw.choice(["math", "number", "choice", "text"])
        _decide(GradeRequest(shape.replace("%s", answer), reference, kind))


def test_a_fault_of_the_rules_is_an_error_and_not_incorrect(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: GradeRequest) -> None:
        raise OverflowError("too large")

    monkeypatch.setattr(sys.modules["distill.grading.grade"], "_decide", broken)
    result = grade(GradeRequest("\\boxed{1}", "1", "math"))
    assert (result.verdict, result.rule) == (Verdict.ERROR, "fault")
