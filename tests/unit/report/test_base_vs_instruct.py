"""Base against instruct: differences of gaps with a known truth."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from distill.config.decides import identity
from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt, Score, Verdict
from distill.evaluate.read_scores import read_scores
from distill.evaluate.statistics import holm
from distill.report.arms import build_arms
from distill.report.base_vs_instruct import gap_changes
from distill.report.build import build_report
from distill.report.comparisons import MACRO, compare
from distill.report.data import Report
from distill.report.html import render_page
from distill.report.tables import print_report
from distill.report.write import write_report
from distill.run.stage_keys import stage_configs
from tests.fixtures.report_run import make_prompt, make_recipe

pytestmark = pytest.mark.usefixtures("unrendered_plots")

SOLVED = {
    "base": {"": 0.1, "long": 0.3, "short": 0.5, "mix-long": 0.5},
    "instruct": {"": 0.4, "long": 0.5, "short": 0.6, "mix-long": 0.6},
}
"""Gaps of -20 and -10 points. Who solves less solves the first of what the other solves, so the truth is exact."""


def pair_recipe(**changes: Any) -> Recipe:
    students = [
        {"name": "base", "model": "smol-135m", "base_of": "instruct"},
        {"name": "instruct", "model": "smol-8l"},
    ]
    return make_recipe(**{"students": students} | changes)


def scored_run(
    folder: Path, recipe: Recipe, num_prompts: int, solved: Mapping[str, Mapping[str, float]] = SOLVED
) -> RunDir:
    """A run that was evaluated only; every seed of an arm solves the same problems."""
    run_dir = RunDir(str(folder))
    prompts = [make_prompt(number, 7000) for number in range(num_prompts)]
    several = len(recipe.train.seeds) > 1
    for benchmark in recipe.evaluate.benchmarks:
        run_dir.write_rows(prompts, Prompt, "prompts", "benchmarks", f"{benchmark}.parquet")
        for student, mixes in solved.items():
            for mix, share in mixes.items():
                cells = [f"{student}@{mix}@{seed}" if several else f"{student}@{mix}" for seed in recipe.train.seeds]
                for model in cells if mix else [student]:
                    rows = [
                        score(model, benchmark, prompt, place < share * num_prompts)
                        for place, prompt in enumerate(prompts)
                    ]
                    run_dir.write_rows(rows, Score, "evaluate", model, f"{benchmark}.parquet")
    return run_dir


def score(model: str, benchmark: str, prompt: Prompt, is_correct: bool) -> Score:
    verdict = Verdict.CORRECT if is_correct else Verdict.INCORRECT
    return Score(model, benchmark, prompt.prompt_id, 0, "", verdict.value, "", "number", "", 40, 20, "stop", 0, 0.0, "")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    recipe = pair_recipe()
    return build_report(recipe, scored_run(tmp_path_factory.mktemp("pair"), recipe, 400))


def test_the_gaps_of_base_and_instruct_are_shown_side_by_side_with_their_difference(report: Report) -> None:
    (change,) = report.gap_changes
    assert (change.base.student, change.base.difference) == ("base", pytest.approx(-0.2))
    assert (change.instruct.student, change.instruct.difference) == ("instruct", pytest.approx(-0.1))
    assert change.difference == pytest.approx(-0.1) and change.num_prompts == 400
    # 80 problems of 400 at -1 and 40 at +1: the mean's standard error is 2.7 points.
    assert change.interval.low == pytest.approx(-0.153, abs=0.006)
    assert change.interval.high == pytest.approx(-0.047, abs=0.006)
    assert change.is_shown and change.p_value < 0.001


def test_too_few_problems_show_no_difference(tmp_path: Path) -> None:
    recipe = pair_recipe()
    report = build_report(recipe, scored_run(tmp_path, recipe, 40))
    (change,) = report.gap_changes
    assert change.difference == pytest.approx(-0.1) and change.interval.covers(0.0) and not change.is_shown
    assert any(line.startswith("Base against instruct") and "no difference shown" in line for line in report.findings)


def test_page_terminal_and_json_hold_the_same_numbers(report: Report, tmp_path: Path) -> None:
    (change,) = report.gap_changes
    page, stream = render_page(report), io.StringIO()
    print_report(report, Console(file=stream, width=160))
    for text in (page, stream.getvalue()):
        assert "Base against instruct" in text and "[−15" in text
    run_dir = RunDir(str(tmp_path))
    write_report(report, run_dir)
    (stored,) = json.loads(Path(run_dir.path("report", "report.json")).read_text())["gap_changes"]
    assert stored["difference"] == change.difference and stored["base"]["purpose"] == "gap"
    (line,) = [line for line in report.findings if line.startswith("Base against")]
    assert (
        "long gap of `base` −20, of `instruct` −10, base minus instruct −10 points [−15, −5], difference shown" in line
    )


def test_the_large_gap_is_shown_side_by_side_as_well(tmp_path: Path) -> None:
    teachers = [{"name": name, "model": "smol-135m", "style": "short"} for name in ("large", "small")]
    mixes = [{"name": f"only-{name}", "weights": {name: 1.0}} for name in ("small", "large")]
    recipe = pair_recipe(teachers=teachers, mixes=mixes)
    solved = {"base": {"only-large": 0.3, "only-small": 0.6}, "instruct": {"only-large": 0.5, "only-small": 0.5}}
    arms = build_arms(recipe, read_scores(recipe, scored_run(tmp_path, recipe, 100, solved)))
    rng = np.random.default_rng(0)
    comparisons = compare(recipe, arms, {"large": 72_000, "small": 3_000}, rng)
    (change,) = gap_changes(recipe, arms, comparisons, rng)
    assert (change.base.purpose, change.base.first) == ("large_gap", "base@only-large")
    assert change.difference == pytest.approx(-0.3) and change.is_shown


def test_several_seeds_and_benchmarks_have_a_mean_and_one_family(tmp_path: Path) -> None:
    source = {"kind": "reasoning_gym", "task": "chain_sum", "seed": 5}
    names = {"easy": {"source": source}, "hard": {"source": source | {"seed": 6}}}
    recipe = pair_recipe(benchmarks=names, evaluate={"benchmarks": list(names)}, train={"seeds": [0, 1, 2]})
    report = build_report(recipe, scored_run(tmp_path, recipe, 200))
    assert [one.base.benchmark for one in report.gap_changes] == ["easy", "hard", MACRO]
    assert all(one.difference == pytest.approx(-0.1) for one in report.gap_changes)
    assert all(one.test.startswith("t test") for one in report.gap_changes)
    raw = [one.p_value for one in report.gap_changes]
    assert [one.p_adjusted for one in report.gap_changes] == pytest.approx(holm(raw))
    assert report.gap_changes[2].p_value < report.gap_changes[0].p_value  # twice the problems
    assert "on `mean of all`" in next(line for line in report.findings if line.startswith("Base against"))


def test_without_a_named_pair_nothing_is_set_side_by_side(tmp_path: Path) -> None:
    students = [{"name": "base", "model": "smol-135m"}, {"name": "instruct", "model": "smol-8l"}]
    recipe = pair_recipe(students=students)
    report = build_report(recipe, scored_run(tmp_path, recipe, 40))
    assert report.gap_changes == () and "Base against instruct" not in render_page(report)


def test_naming_a_pair_makes_another_report_and_no_other_training() -> None:
    plain = make_recipe(students=[{"name": "base", "model": "smol-135m"}, {"name": "instruct", "model": "smol-8l"}])
    paired = pair_recipe()
    before, after = (stage_configs(recipe, Path()) for recipe in (plain, paired))
    assert [stage for stage in before if before[stage] != after[stage]] == ["report"]
    assert identity(plain.students[0]) == identity(paired.students[0])
