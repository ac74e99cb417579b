"""Arms that differ in how much they are trained on: families, curves, sweeps, and unequal against matched steps."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.config.recipe import Recipe
from distill.evaluate.interval import Interval
from distill.evaluate.statistics import holm
from distill.report.build import build_report
from distill.report.comparisons import MACRO, all_pairs
from distill.report.data import Report
from distill.report.families import UnequalPair, arm_families, main_mixes, unequal_pairs
from distill.report.html import render_page
from distill.report.plots import arm_colours, one_of_each_family
from distill.report.score_data import Comparison
from distill.report.unequal_steps import steps_words
from distill.report.wording import caveats
from tests.fixtures.report_run import make_recipe, make_run

pytestmark = pytest.mark.usefixtures("unrendered_plots")

WEIGHTS = {"short": {"short": 1.0}, "long": {"long": 1.0}, "mix-long": {"long": 0.2, "short": 0.8}}
SIZES = (10, 20, 40)
STEPS = {"budget": "steps", "num_steps": 60, "unmatched": True}


def mixes(*numbers: int | None, field: str) -> list[dict[str, Any]]:
    """Every mix once per number, which is at the end of its name."""
    return [
        {"name": name, "weights": weights}
        if number is None
        else {"name": f"{name}-{number}", "weights": weights, field: number}
        for name, weights in WEIGHTS.items()
        for number in numbers
    ]


def two_benchmarks(**changes: Any) -> Recipe:
    source = {"kind": "reasoning_gym", "task": "chain_sum", "seed": 5}
    names = ("easy", "hard")
    return make_recipe(
        benchmarks={name: {"source": source} for name in names}, evaluate={"benchmarks": list(names)}, **changes
    )


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Report:
    merges = [{"name": f"merged-{size}", "of": [f"long-{size}", f"short-{size}"]} for size in SIZES]
    recipe = two_benchmarks(mixes=mixes(*SIZES, field="num_prompts"), merges=merges)
    return build_report(recipe, make_run(tmp_path_factory.mktemp("sized"), recipe))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Report:
    blend = {"name": "mix-long-24", "weights": WEIGHTS["mix-long"], "num_steps": 24}
    recipe = two_benchmarks(mixes=[*mixes(None, field=""), blend], train=STEPS)
    return build_report(recipe, make_run(tmp_path_factory.mktemp("published"), recipe, num_scored=300))


def test_arms_that_differ_only_in_their_numbers_are_one_family() -> None:
    merges = [{"name": f"merged-{size}", "of": [f"long-{size}", f"short-{size}"]} for size in SIZES]
    families = arm_families(make_recipe(mixes=mixes(*SIZES, field="num_prompts"), merges=merges))
    assert families == {f"{name}-{size}": name for name in (*WEIGHTS, "merged") for size in SIZES}
    other = {"name": "short-9", "weights": {"short": 1.0}, "stratify": ["level"]}
    families = arm_families(make_recipe(mixes=[*mixes(None, 24, field="num_steps"), other], train=STEPS))
    assert families["mix-long-24"] == families["mix-long"] == "mix-long"
    assert families["short-9"] == "short-9", "alone of its kind, it keeps its name"


def test_a_family_with_modes_is_one_per_mode() -> None:
    modes = {"long": "Think.", "short": "Be brief."}
    blend = {"weights": WEIGHTS["mix-long"], "modes": modes}
    listed = [{"name": f"both-{size}", "num_prompts": size, **blend} for size in SIZES]
    assert arm_families(make_recipe(mixes=listed))["both-20:short"] == "both:short"


def test_arms_are_compared_with_those_of_their_size_and_their_own_kind() -> None:
    recipe = make_recipe(mixes=mixes(*SIZES, field="num_prompts"))
    pairs = all_pairs(recipe, {})
    found = {
        purpose: [(one.first, one.second) for one in pairs if one.purpose == purpose] for purpose in ("gap", "blend")
    }
    assert found["gap"] == [(f"long-{size}", f"short-{size}") for size in SIZES]
    assert found["blend"] == [(f"mix-long-{size}", f"{pool}-{size}") for size in SIZES for pool in ("long", "short")]
    families = arm_families(recipe)
    rest = [one for one in pairs if one.purpose == "other"]
    assert len(rest) == 3 * 3 and all(families[one.first] == families[one.second] for one in rest)
    assert [mix.name for mix in main_mixes(recipe)] == ["short-40", "long-40", "mix-long-40"]


def test_the_headline_is_about_the_largest_size(sized: Report) -> None:
    assert sized.headline.startswith("`smol-135m@mix-long-40` solves")


def test_a_curve_has_every_size_of_a_family_by_its_rows(sized: Report) -> None:
    mine = [one for one in sized.budget_curves if (one.student, one.benchmark) == ("smol-8l", MACRO)]
    assert [one.label for one in mine] == ["short", "long", "mix-long", "merged"]
    assert {one.by for one in mine} == {"rows"}
    blend = mine[2]
    assert [(point.mix, point.amount) for point in blend.points] == [(f"mix-long-{size}", size) for size in SIZES]
    macros = {one.mix: one for one in sized.macros if one.student == "smol-8l"}
    tokens = {arm.mix: [] for arm in sized.arms}
    for arm in sized.arms:
        if arm.student == "smol-8l":
            tokens[arm.mix].append(arm.mean_tokens)
    for point in blend.points:
        assert (point.accuracy, point.interval) == (macros[point.mix].accuracy, macros[point.mix].interval)
        assert point.mean_tokens == pytest.approx(np.mean(tokens[point.mix]))
    assert [point.amount for point in mine[3].points] == list(SIZES), "a merge has the rows of its parents"


def test_a_family_keeps_its_colour_and_its_line_in_legends(sized: Report) -> None:
    colours = arm_colours(sized)
    assert {colours[f"short-{size}"] for size in SIZES} == {colours["short-10"]}
    assert len({colours[f"{name}-10"] for name in (*WEIGHTS, "merged")}) == 4
    assert one_of_each_family(sized, list(sized.mixes)) == {f"{name}-10": name for name in (*WEIGHTS, "merged")}


def test_the_page_shows_both_plots_of_every_benchmark_and_a_sweep_per_size(sized: Report) -> None:
    page = render_page(sized)
    for benchmark in ("easy", "hard", MACRO):
        for student in sized.students:
            assert f"Accuracy of {student} on {benchmark} by rows of the mix" in page
            assert f"Accuracy per token of {student} on {benchmark} by rows of the mix" in page
        assert f"Weight sweep on {benchmark} by the weight of long against short (20 prompts)" in page
    assert {sweep.budget for sweep in sized.sweeps} == {f"{size} prompts" for size in SIZES}


def test_sizes_alone_are_no_reason_to_warn_of_unequal_steps(sized: Report) -> None:
    cells = [dataclasses.replace(cell, total_steps=int(cell.mix.rpartition("-")[2])) for cell in sized.cells]
    recipe = make_recipe(mixes=mixes(*SIZES, field="num_prompts"))
    assert not [line for line in caveats(recipe, [], [], cells) if "optimiser steps" in line]
    cells[0] = dataclasses.replace(cells[0], total_steps=999)
    (line,) = [line for line in caveats(recipe, [], [], cells) if "optimiser steps" in line]
    assert "`smol-135m`" in line and "`smol-8l`" not in line


def test_arms_of_other_steps_form_a_curve_over_steps(published: Report) -> None:
    mine = [one for one in published.budget_curves if (one.student, one.benchmark) == ("smol-135m", "easy")]
    assert [(one.by, one.family) for one in mine] == [("steps", "mix-long")]
    assert [(point.mix, point.amount) for point in mine[0].points] == [("mix-long-24", 24), ("mix-long", 60)]
    assert "Accuracy of smol-135m on easy by optimiser steps" in render_page(published)


def pairs_of(*listed: dict[str, Any]) -> list[UnequalPair]:
    return unequal_pairs(make_recipe(mixes=[*mixes(None, field=""), *listed], train=STEPS))


def test_unequal_pairs_take_each_arm_with_its_own_steps_where_it_has_such() -> None:
    blend = {"name": "mix-long-24", "weights": WEIGHTS["mix-long"], "num_steps": 24}
    assert pairs_of(blend) == [
        UnequalPair("mix-long-24", "short", "mix-long", "short"),
        UnequalPair("mix-long-24", "long", "mix-long", "long"),
    ]
    short = {"name": "short-200", "weights": WEIGHTS["short"], "num_steps": 200}
    assert pairs_of(blend, short)[0] == UnequalPair("mix-long-24", "short-200", "mix-long", "short")
    assert pairs_of(short) == [UnequalPair("mix-long", "short-200", "mix-long", "short")]
    assert pairs_of() == []
    same = {"name": "short-24", "weights": WEIGHTS["short"], "num_steps": 24}
    found = [(one.blend, one.pure) for one in pairs_of(blend, same)]
    assert found[-1] == ("mix-long-24", "long")
    assert found[:-1] == [("mix-long", "short-24"), ("mix-long-24", "short")], "24 against 24 are not unequal, 60 are"


def test_what_matched_steps_remove_is_the_blends_own_change_where_the_pure_arm_is_the_same(published: Report) -> None:
    changes = published.steps_changes
    assert len(changes) == 2 * 3 * 2, "students, benchmarks with their mean, pure arms"
    one = next(one for one in changes if (one.student, one.benchmark) == ("smol-135m", MACRO))
    assert (one.unequal.first, one.unequal.second) == ("smol-135m@mix-long-24", "smol-135m@short")
    assert (one.matched.first, one.matched.second) == ("smol-135m@mix-long", "smol-135m@short")
    assert (one.steps, one.matched_steps) == ((24, 60), 60)
    gaps = one.unequal.difference - one.matched.difference
    assert one.difference == pytest.approx(gaps, abs=0.03), "some completions are ungraded in one arm"
    own = next(
        each
        for each in published.comparisons
        if {each.first, each.second} == {"smol-135m@mix-long-24", "smol-135m@mix-long"} and each.benchmark == MACRO
    )
    assert (abs(own.difference), own.p_value) == (abs(one.difference), one.p_value)
    # The change is that of the blend alone, so gaps to both pure arms have the same one.
    once = [each for each in changes if each.unequal.second.endswith("@short")]
    assert [each.p_adjusted for each in once] == holm([each.p_value for each in once])
    others = [each for each in changes if each not in once]
    assert [each.p_adjusted for each in others] == [each.p_adjusted for each in once]
    assert one.unequal in published.comparisons and one.unequal.family == "unequal steps"
    page = render_page(published)
    assert "Unequal against matched steps" in page and "Gaps with unequal and with matched optimiser steps" in page
    assert re.search(r"<code>mix-long-24</code> \(24 steps\) minus <code>short</code> \(60 steps\) is", page)


def test_four_different_arms_give_a_difference_of_differences(tmp_path: Path) -> None:
    listed = mixes(None, field="")
    own = [
        {"name": "mix-long-24", "weights": WEIGHTS["mix-long"], "num_steps": 24},
        {"name": "short-200", "weights": WEIGHTS["short"], "num_steps": 200},
    ]
    recipe = make_recipe(mixes=[*listed, *own], train=STEPS)
    report = build_report(recipe, make_run(tmp_path, recipe))
    one = next(each for each in report.steps_changes if each.unequal.second == "smol-135m@short-200")
    arms = {arm.label: arm.accuracy for arm in report.arms}
    unequal, matched = (
        arms[f"smol-135m@{first}"] - arms[f"smol-135m@{second}"]
        for first, second in (("mix-long-24", "short-200"), ("mix-long", "short"))
    )
    assert one.difference == pytest.approx(unequal - matched, abs=0.03), "some completions are ungraded in one arm"
    assert one.interval.covers(one.difference) and one.steps == (24, 200)


@pytest.mark.parametrize(
    ("unequal", "matched", "is_shown", "words"),
    [
        (
            -0.20,
            -0.05,
            True,
            "Matched steps remove 75 % of the gap (unequal minus matched −15.0 points [−18.0, −12.0]).",
        ),
        (-0.20, -0.05, False, "That matched steps change it is not shown: unequal minus matched −15.0 points"),
        (-0.10, 0.05, True, "Matched steps turn the gap round"),
        (0.05, 0.20, True, "Matched steps widen the gap"),
        (0.01, 0.20, True, "Matched steps change it (unequal minus matched −19.0 points"),
    ],
)
def test_the_sentence_says_how_much_of_the_gap_matched_steps_remove(
    published: Report, unequal: float, matched: float, is_shown: bool, words: str
) -> None:
    def gap(difference: float) -> Comparison:
        one = published.steps_changes[0].unequal
        return dataclasses.replace(one, difference=difference, interval=Interval(difference - 0.03, difference + 0.03))

    difference = unequal - matched
    change = dataclasses.replace(
        published.steps_changes[0],
        unequal=gap(unequal),
        matched=gap(matched),
        difference=difference,
        interval=Interval(difference - 0.03, difference + 0.03),
        is_shown=is_shown,
    )
    (line,) = steps_words([change])
    assert words in line
    assert "(24 steps) minus `short` (60 steps) is" in line and "with 60 steps for both it is" in line


def test_a_stage_counts_with_the_steps_tokens_and_costs_of_what_it_starts_from(tmp_path: Path) -> None:
    staged = [
        {"name": "short", "weights": WEIGHTS["short"]},
        {"name": "mix-long", "weights": WEIGHTS["mix-long"], "after": "short"},
        {"name": "long", "weights": WEIGHTS["short"], "after": "short", "total_steps": "with_parent"},
    ]
    recipe = make_recipe(mixes=staged, train={"budget": "steps", "num_steps": 60})
    report = build_report(recipe, make_run(tmp_path, recipe, num_prompts=40, num_scored=20))
    cells = {cell.cell: cell for cell in report.cells}
    one = cells["smol-8l@mix-long"]
    assert (one.after, one.steps, one.total_steps) == (("smol-8l@short",), 60, 120)
    assert one.total_tokens == 2 * (one.supervised_tokens or 0) > 0
    assert (cells["smol-8l@long"].after, cells["smol-8l@short"].total_steps) == ((), 60)
    costs = {cost.mix: cost for cost in report.costs if cost.student == "smol-8l"}
    assert costs["mix-long"].device_s == 2 * (costs["short"].device_s or 0) > 0
    page = render_page(report)
    assert "<td>smol-8l@short</td>" in page and "steps in all" in page
    assert "<em>stages</em>" in page
