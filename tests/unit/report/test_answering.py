"""Students that are made to answer in other ways, in the report: curves of accuracy against tokens, and dominance."""

import io
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distill.core.run_dir import RunDir
from distill.core.schema import Score
from distill.evaluate.read_scores import expected_models
from distill.evaluate.statistics import Difference, Interval
from distill.report.answering import answering_words, equal_words, verdict
from distill.report.build import build_report
from distill.report.data import Report
from distill.report.figures import all_plots
from distill.report.html import render_page
from distill.report.score_data import Comparison
from distill.report.tables import print_report
from tests.fixtures.report_run import make_prompt, make_recipe, make_run, make_score

NUM = 100
WAYS = {
    "short+budget-16": (0.1, 20),
    "short+budget-32": (0.5, 40),
    "short+extend": (0.95, 30),
    "long+budget-16": (0.9, 20),
}
"""Evaluation arm -> its accuracy and tokens."""
ARMS: list[dict[str, Any]] = [
    {"of": "smol-135m@short", "budget": [32, 16]},
    {"of": "smol-135m@short", "extend": {"times": 1}},
    {"of": "smol-135m@long", "budget": [16]},
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    recipe = make_recipe(evaluate={"benchmarks": ["arithmetic"], "arms": ARMS})
    run_dir, rng = make_run(tmp_path_factory.mktemp("run"), recipe, num_prompts=40, num_scored=NUM), random.Random(5)
    for mix, (accuracy, tokens) in WAYS.items():
        write_answers(run_dir, rng, f"smol-135m@{mix}", accuracy, tokens)
    return build_report(recipe, run_dir)


def test_figures_of_accuracy_show_arms_that_answer_by_themselves(report: Report) -> None:
    shown = {arm.mix for arm in report.answering_alone("arithmetic")}
    assert shown == {"", "short", "long", "mix-long"} and {arm.mix for arm in report.arms} == shown | set(WAYS)


@pytest.mark.parametrize("all_runs", [True, False])
def test_runs_without_any_tokens_are_left_out_and_said(tmp_path: Path, all_runs: bool) -> None:
    way = {"of": "smol-135m@short", "budget": [16]}
    recipe = make_recipe(evaluate={"benchmarks": ["arithmetic"], "arms": [way]}, train={"seeds": [0, 1]})
    run_dir, rng = RunDir(str(tmp_path)), random.Random(5)
    models = [one for one in expected_models(recipe) if (one.student, one.mix[:5]) == ("smol-135m", "short")]
    for model in models:
        write_answers(run_dir, rng, model.name, 0.5, 20)
    made = [model.name for model in models if "+" in model.mix]
    for name in made if all_runs else made[1:]:
        path = ("evaluate", name, "arithmetic.parquet")
        rows = [Score(**row) for row in run_dir.read_table(*path, row_type=Score).to_pylist()]
        lost = [replace(row, verdict="CORRECT" if all_runs else "ERROR", completion_tokens=0) for row in rows]
        run_dir.write_rows(lost, Score, *path)
    report = build_report(recipe, run_dir)
    (curve,) = report.answering
    said = " ".join(answering_words(curve))
    assert f"`{made[1]}`" in said and "no completion" in said
    assert [arm.mix for arm in report.answering_alone("arithmetic")] == ["short"]
    if all_runs:
        assert curve.points == () and "fewer than two problems have tokens in every run of both" in said
    else:
        assert [one.way for one in curve.points] == ["budget-16", "by itself"]
        assert curve.points[0].mean_tokens == pytest.approx(21, abs=0.1)
    page = render_page(report)
    assert "Made to answer" in page and "no completion" in page.partition("Made to answer")[2]


def test_one_problem_tells_nothing_about_the_tokens_of_others(tmp_path: Path) -> None:
    recipe = make_recipe(evaluate={"benchmarks": ["arithmetic"], "arms": [{"of": "smol-135m@short", "budget": [16]}]})
    for num_problems in (1, 2):
        run_dir = RunDir(str(tmp_path / str(num_problems)))
        for model in ("smol-135m@short", "smol-135m@short+budget-16"):
            rows = [
                make_score(random.Random(1), model, "arithmetic", make_prompt(at), 1.0) for at in range(num_problems)
            ]
            run_dir.write_rows(rows, Score, "evaluate", model, "arithmetic.parquet")
        (curve,) = build_report(recipe, run_dir).answering
        assert len(curve.points) == (0 if num_problems == 1 else 2)
        assert ("fewer than two problems have tokens" in " ".join(answering_words(curve))) == (num_problems == 1)


def write_answers(run_dir: RunDir, rng: random.Random, model: str, accuracy: float, tokens: int) -> None:
    prompts = [make_prompt(number, offset=7000) for number in range(NUM)]
    rows = [make_score(rng, model, "arithmetic", prompt, accuracy) for prompt in prompts]
    spread = [replace(row, completion_tokens=tokens + number % 3) for number, row in enumerate(rows)]
    run_dir.write_rows(spread, Score, "evaluate", model, "arithmetic.parquet")


def test_a_sweep_is_a_curve_that_ends_at_the_student_by_itself(report: Report) -> None:
    short, long = report.answering
    assert (short.label, long.label) == ("smol-135m@short", "smol-135m@long")
    assert [one.way for one in short.points] == ["budget-16", "budget-32", "extend", "by itself"]
    assert [one.budget for one in short.sweep] == [16, 32, None] and short.sweep[-1].change is None
    by_itself = next(arm for arm in report.arms if arm.label == "smol-135m@short")
    assert short.sweep[-1].accuracy == by_itself.accuracy and short.sweep[-1].mean_tokens == by_itself.mean_tokens
    assert all(one.tokens_interval.low < one.mean_tokens < one.tokens_interval.high for one in short.points)
    assert [round(one.mean_tokens) for one in short.points[:3]] == [21, 41, 31]


def test_dominance_is_said_of_what_is_shown(report: Report) -> None:
    short, _ = report.answering
    verdicts = {one.way: one.verdict for one in short.points}
    assert verdicts["extend"].startswith("dominates it") and verdicts["budget-16"] == "less accurate with fewer tokens"
    assert (
        "fewer tokens and no loss shown; a loss of more than" in verdicts["budget-32"] and verdicts["by itself"] == ""
    )
    (line, *_) = answering_words(short)
    assert line.startswith("`smol-135m@short`, budget-16, on `arithmetic`: ")
    assert all(word in line for word in ("against itself −", "tokens [", "truncated", "looping"))
    (equal,) = equal_words(report.comparisons)
    assert equal.startswith("`smol-135m@long` minus `smol-135m@short` on `arithmetic`") and "budget-16 +" in equal
    assert {one.family for one in report.comparisons if "+" in one.first} == {"answering", "equal answering"}


@pytest.mark.parametrize(
    ("points", "half", "is_shown", "tokens", "said"),
    [
        (0.1, 0.1, True, (-5.0, -3.0), "dominates it"),
        (0.1, 0.1, True, (-5.0, 3.0), "more accurate, no difference in tokens"),
        (0.1, 0.1, True, (3.0, 5.0), "more accurate with more tokens"),
        (0.1, 0.1, False, (-5.0, 3.0), "no difference shown"),
        (0.1, 0.1, False, (3.0, 5.0), "a gain of more than 20.0 points is excluded"),
        (-0.1, 0.1, False, (-5.0, -3.0), "a loss of more than 20.0 points is excluded"),
        (-0.1, 0.1, True, (3.0, 5.0), "is dominated by it"),
        (-0.1, 0.05, False, (-5.0, -3.0), "fewer tokens; less accurate by this interval alone, not shown"),
        (0.1, 0.05, False, (-5.0, 3.0), "no difference in tokens shown; more accurate by this interval alone"),
    ],
)
def test_neither_side_is_called_dominant_without_both_intervals(
    points: float, half: float, is_shown: bool, tokens: tuple[float, float], said: str
) -> None:
    ends = Interval(points - half, points + half)
    change = Comparison(
        "answering", "answering", "s", "b", "s@a+x", "s@a", points, ends, 0.05, None, 0.01, 0.02, "t", 50, is_shown
    )
    more = Difference(sum(tokens) / 2, Interval(*tokens), 0.01, "t", 50, 1.0, 10.0)
    assert said in verdict(change, more)


def test_the_page_and_the_terminal_show_every_way_and_a_plot_per_student(report: Report) -> None:
    page = render_page(report)
    verdicts = [one.verdict for curve in report.answering for one in curve.points]
    dominant = "dominates it: more accurate with fewer tokens"
    assert "Made to answer" in page
    assert page.count(dominant) == 2 * verdicts.count(dominant) > 0, "in words and in the table"
    plots = [name for name in all_plots(report) if name.startswith("answering ")]
    assert plots == ["answering smol-135m on arithmetic"]
    console = Console(file=io.StringIO(), width=300)
    print_report(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # the file above
    assert "Made to answer" in text and "budget-32" in text


def test_without_evaluation_arms_there_is_no_such_section(tmp_path: Path) -> None:
    recipe = make_recipe()
    report = build_report(recipe, make_run(tmp_path, recipe, num_prompts=30, num_scored=20))
    assert not report.answering and "Made to answer" not in render_page(report)


def test_a_helped_student_is_compared_with_itself(tmp_path: Path) -> None:
    arm = {"of": "smol-135m@short", "helper": {"model": "smol-8l@long"}}
    recipe = make_recipe(evaluate={"benchmarks": ["arithmetic"], "arms": [arm]})
    run_dir = make_run(tmp_path, recipe, num_prompts=40, num_scored=40)
    write_answers(run_dir, random.Random(1), "smol-135m@short+smol-8l@long", 0.9, 30)
    report = build_report(recipe, run_dir)
    (found,) = [one for one in report.comparisons if one.purpose == "answering"]
    assert (found.first, found.second) == ("smol-135m@short+smol-8l@long", "smol-135m@short")


def test_a_student_that_chooses_is_compared_with_itself_as_it_is_told(tmp_path: Path) -> None:
    modes = {"short": "Briefly:", "long": "Step by step:"}
    mix = {"name": "routed", "weights": {"long": 0.5, "short": 0.5}, "modes": modes, "modes_in": "completion"}
    arms = [{"of": "smol-135m@routed", "mode": "auto"}]
    recipe = make_recipe(mixes=[mix], evaluate={"benchmarks": ["arithmetic"], "arms": arms})
    run_dir, rng = RunDir(str(tmp_path)), random.Random(3)
    for way, accuracy, tokens in (("routed:short", 0.2, 20), ("routed:long", 0.9, 60), ("routed+auto", 0.5, 40)):
        write_answers(run_dir, rng, f"smol-135m@{way}", accuracy, tokens)
    report = build_report(recipe, run_dir)
    (curve,) = report.answering
    assert [(one.way, one.against) for one in curve.points] == [
        ("auto", "told to be short"), ("auto", "told to be long"), ("told to be short", ""), ("told to be long", ""),
    ]  # fmt: skip
    above, below = (one.change.difference for one in curve.points if one.change)
    assert above == pytest.approx(0.3, abs=0.15) and below == pytest.approx(-0.4, abs=0.15)
    above_words, below_words = answering_words(curve)
    assert "against itself, told to be short, +" in above_words and "against itself, told to be long, −" in below_words
    page = render_page(report)
    assert (
        "against told to be long" in page and ">routed:short<" in all_plots(report)["answering smol-135m on arithmetic"]
    )
