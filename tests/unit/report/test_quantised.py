"""What quantisation cost: a file's scores against its full weights, problem by problem, in the report and its words."""

import dataclasses
import random
from pathlib import Path

import pytest

from distill.config.recipe import Recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, benchmark_scores, score_item
from distill.core.schema import Score, Verdict
from distill.evaluate.interval import Interval
from distill.report.build import build_report
from distill.report.html import render_page
from distill.report.quantised import quantised_name, quantised_scores
from distill.report.quantised_words import newest_quantised, quantised_words
from distill.report.stored import stored_report
from tests.fixtures.report_run import finish, make_recipe, make_run

FULL = "smol-135m@mix-long"


def write_quantised(run_dir: RunDir, full: str, name: str, *, lost: float, at: str = "2026-01-03T00:00:00Z") -> None:
    """Scores of a file that answers as its full weights do, but for a share of the solved problems."""
    rng = random.Random(1)
    rows = run_dir.read_table(*benchmark_scores(full, "arithmetic"), row_type=Score).to_pylist()
    scores = [Score(**row | {"model": name}) for row in rows]
    wrong = [
        dataclasses.replace(one, verdict=Verdict.INCORRECT.value)
        if one.verdict == Verdict.CORRECT and rng.random() < lost
        else one
        for one in scores
    ]
    run_dir.write_rows(wrong, Score, *benchmark_scores(name, "arithmetic"))
    run_dir.write_manifest(Manifest("evaluate", "k", finished_at=at), *score_item(name, "arithmetic"))


@pytest.fixture
def run(tmp_path: Path) -> tuple[Recipe, RunDir]:
    recipe = make_recipe()
    return recipe, make_run(tmp_path, recipe)


def test_a_file_that_answers_alike_has_no_loss_and_says_which_loss_is_excluded(run: tuple[Recipe, RunDir]) -> None:
    recipe, run_dir = run
    write_quantised(run_dir, FULL, quantised_name(FULL, "q8_0"), lost=0.0)
    (one,) = quantised_scores(recipe, run_dir)
    assert (one.model, one.full, one.difference, one.is_shown) == (f"{FULL}/q8_0", FULL, 0.0, False)
    assert one.accuracy == one.full_accuracy
    (line,) = quantised_words([one])
    assert line.startswith("No loss shown: `smol-135m@mix-long/q8_0` on `arithmetic`") and "is excluded" in line


def test_a_file_that_loses_a_third_has_its_loss_shown_with_its_interval(run: tuple[Recipe, RunDir]) -> None:
    recipe, run_dir = run
    write_quantised(run_dir, FULL, quantised_name(FULL, "q4_k_m"), lost=1 / 3)
    (one,) = quantised_scores(recipe, run_dir)
    assert one.is_shown and one.difference < -0.1
    assert one.difference_interval.low < one.difference < one.difference_interval.high < 0
    (line,) = quantised_words([one])
    assert line.startswith("Quantisation cost accuracy: ") and "points [−" in line


def test_what_the_correction_hides_is_said_and_no_loss_is_negative(run: tuple[Recipe, RunDir]) -> None:
    recipe, run_dir = run
    write_quantised(run_dir, FULL, quantised_name(FULL, "q8_0"), lost=0.0)
    (one,) = quantised_scores(recipe, run_dir)
    above = dataclasses.replace(one, difference=0.03, difference_interval=Interval(0.005, 0.06), p_adjusted=0.08)
    (line,) = quantised_words([above])
    assert line.startswith("No loss shown") and "(Holm-corrected p = 0.080); a loss of more than 0.0 % of" in line
    below = dataclasses.replace(one, difference=-0.03, difference_interval=Interval(-0.06, -0.005), p_adjusted=0.08)
    (line,) = quantised_words([below])
    assert "(Holm-corrected p = 0.080); a loss of more than 6.0 % of" in line


def test_it_stands_in_the_report_which_is_built_again_for_it(run: tuple[Recipe, RunDir]) -> None:
    recipe, run_dir = run
    before = finish(run_dir, recipe)
    assert before.quantised == () and stored_report(recipe, run_dir) is not None
    write_quantised(run_dir, FULL, quantised_name(FULL, "q4_k_m"), lost=0.5, at="2099-01-01T00:00:00Z")
    assert newest_quantised(run_dir) == "2099-01-01T00:00:00Z"
    assert stored_report(recipe, run_dir) is None
    report = build_report(recipe, run_dir)
    assert [one.model for one in report.quantised] == [f"{FULL}/q4_k_m"]
    assert [one.mix for one in report.arms] == [one.mix for one in before.arms]  # no mix of its own
    page = render_page(report)
    assert 'id="quantised"' in page and "smol-135m@mix-long/q4_k_m" in page
    assert 'id="quantised"' not in render_page(before)


def test_a_mode_is_compared_with_the_same_mode(tmp_path: Path) -> None:
    mixes = [
        {"name": "mix-long", "weights": {"long": 0.5, "short": 0.5}, "modes": {"long": "Think.", "short": "Brief."}}
    ]
    recipe = make_recipe(mixes=mixes)
    run_dir = make_run(tmp_path, recipe)
    for mode in ("long", "short"):
        rows = run_dir.read_table(*benchmark_scores(FULL, "arithmetic"), row_type=Score).to_pylist()
        run_dir.write_rows([Score(**row) for row in rows], Score, *benchmark_scores(f"{FULL}:{mode}", "arithmetic"))
    write_quantised(run_dir, f"{FULL}:short", quantised_name(FULL, "q4_k_m", "short"), lost=0.0)
    (one,) = quantised_scores(recipe, run_dir)
    assert (one.model, one.full) == (f"{FULL}/q4_k_m:short", f"{FULL}:short")


def test_an_interval_does_not_depend_on_what_else_was_scored(run: tuple[Recipe, RunDir]) -> None:
    """The card is written by one command and the report by another, when there may be more files."""
    recipe, run_dir = run
    write_quantised(run_dir, FULL, quantised_name(FULL, "q8_0"), lost=1 / 3)
    (alone,) = quantised_scores(recipe, run_dir)
    write_quantised(run_dir, FULL, quantised_name(FULL, "q4_k_m"), lost=1 / 2)
    among = {one.model: one for one in quantised_scores(recipe, run_dir)}
    assert among[alone.model].difference_interval == alone.difference_interval
