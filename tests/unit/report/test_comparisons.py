"""Families of comparisons, gaps, sweeps, costs, levels and the paper's numbers, on synthetic runs."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.config.benchmarks import DEFINITIONS
from distill.config.recipe import Recipe
from distill.config.sources import HubSource
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt
from distill.evaluate.read_scores import read_scores
from distill.evaluate.statistics import Interval, holm
from distill.prompts.load import versioned
from distill.report.arms import arm_scores, build_arms
from distill.report.build import build_report
from distill.report.comparisons import FAMILIES, MACRO, all_pairs, planned_pairs
from distill.report.data import Report
from distill.report.families import unequal_pairs
from distill.report.figures import all_plots, pareto_front, token_ticks
from distill.report.html import render_page
from distill.report.paper_metrics import sweeps
from distill.report.paper_numbers import paper_rows
from distill.report.score_data import Comparison
from distill.report.wording import findings
from tests.fixtures.report_run import make_prompt, make_recipe, make_run, write_scores

pytestmark = pytest.mark.usefixtures("unrendered_plots")

QWEN = "Qwen/Qwen2.5-{}-Instruct"
GYM = {"kind": "reasoning_gym", "task": "chain_sum", "size": 240, "seed": 4}


def paper_recipe(*more: dict[str, Any]) -> Recipe:
    models = {"small": QWEN.format("1.5B"), "mid": QWEN.format("3B"), "qwq": "Qwen/QwQ-32B-Preview"}
    teachers = [{"name": "long", "model": "qwq", "style": "long"}, {"name": "short", "model": "q32", "style": "short"}]
    weights = {"short": (0, 1), "long": (1, 0), "mix-long": (0.2, 0.8), "half": (0.5, 0.5)}
    return make_recipe(
        models={name: {"sources": [source]} for name, source in {**models, "q32": QWEN.format("32B")}.items()},
        teachers=teachers,
        mixes=[{"name": name, "weights": {"long": a, "short": b}} for name, (a, b) in weights.items()] + [*more],
        students=[{"name": name, "model": name, "num_workers": 2} for name in ("small", "mid")],
        benchmarks={name: {"source": GYM} for name in ("easy", "hard")},
        evaluate={"benchmarks": ["easy", "hard"]},
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    recipe = paper_recipe()
    run_dir = make_run(tmp_path_factory.mktemp("paper"), recipe)
    prompts = [
        dataclasses.replace(make_prompt(number, 7000), level=f"Level {number % 3}", subject="Algebra")
        for number in range(100)
    ]
    run_dir.write_rows(prompts, Prompt, "prompts", "benchmarks", "hard.parquet")
    return build_report(recipe, run_dir)


def test_every_pair_of_arms_is_compared_once_and_only_the_recipe_plans() -> None:
    recipe = paper_recipe()
    pairs = all_pairs(recipe, {})
    assert len({frozenset((pair.first, pair.second)) for pair in pairs}) == len(pairs) == 4 + 6
    assert [(pair.first, pair.second) for pair in pairs if pair.purpose == "gap"] == [("long", "short")]
    assert [(pair.first, pair.second) for pair in pairs if pair.purpose == "other"] == [("half", "mix-long")]


def test_an_arm_in_stages_is_compared_with_its_parent_and_with_one_stage_of_its_own_traces() -> None:
    weights = {"long": 0.2, "short": 0.8}
    mixes = [
        {"name": "warm", "weights": {"long": 1.0}},
        {"name": "cold", "weights": {"short": 1.0}},
        {"name": "direct", "weights": weights},
        {"name": "staged", "weights": weights, "after": "warm"},
        {"name": "chilled", "weights": weights, "after": "cold"},
        {"name": "control", "weights": weights, "after": "warm", "total_steps": "with_parent"},
    ]
    pairs = all_pairs(make_recipe(mixes=mixes, train={"budget": "steps", "num_steps": 20}), {})
    found = {purpose: {(one.first, one.second) for one in pairs if one.purpose == purpose} for purpose in FAMILIES}
    assert found["stage"] == {
        ("staged", "warm"), ("staged", "direct"), ("staged", "control"),
        ("chilled", "cold"), ("chilled", "direct"),
    }  # fmt: skip
    assert ("chilled", "staged") in found["other"] and ("control", "chilled") in found["other"]
    assert ("staged", "long") not in found["blend"] and ("direct", "warm") in found["blend"]


def test_what_later_stages_are_shown_to_change_is_said_first() -> None:
    def stage(first: str, second: str, difference: float, p_value: float) -> Comparison:
        ends, sides = Interval(difference - 0.05, difference + 0.05), (f"s@{first}", f"s@{second}")
        of = (
            "stage",
            "stages",
            "s",
            "sums",
            *sides,
            difference,
            ends,
            0.02,
            None,
            p_value,
            p_value,
            "t",
            100,
            p_value < 0.05,
        )
        return Comparison(*of)

    lines = [stage("dpo", "sft", -0.25, 0.001), stage("joint", "sft", 0.1, 0.01), stage("more", "sft", 0.2, 0.4)]
    (told,) = findings(lines, [])
    assert told.startswith("Stages: `s@dpo` minus `s@sft` on `sums` −25") and "s@joint" in told and "more" not in told
    assert findings(lines[2:], []) == ["Stages: no difference is shown."] and findings([], []) == []


OWN_ANSWERS = {"objective": {"kind": "reinforce"}}
PAIRED = {"policy": "pairs", "objective": {"kind": "prefer"}}


def planned_of(*mixes: dict[str, Any], merges: list[dict[str, Any]] | None = None) -> set[tuple[str, str, str]]:
    recipe = make_recipe(mixes=list(mixes), merges=merges or [])
    return {(one.purpose, one.first, one.second) for one in planned_pairs(recipe, {}) if one.purpose != "gain"}


def test_only_arms_of_one_objective_are_compared_for_their_traces() -> None:
    long, short = ({"name": name, "weights": {name: 1.0}} for name in ("long", "short"))
    blend = {"name": "mix", "weights": {"long": 0.2, "short": 0.8}}
    others = [
        {"name": "rl-short", "weights": {"short": 1.0}, **OWN_ANSWERS},
        {"name": "rl-mix", "weights": {"long": 0.5, "short": 0.5}, **OWN_ANSWERS},
        {"name": "dpo-long", "pools": ["long"], **PAIRED},
        {"name": "dpo-both", "pools": ["long", "short"], **PAIRED},
    ]
    merges = [{"name": "merged", "of": ["long", "short"]}, {"name": "mixed-up", "of": ["long", "rl-short"]}]
    found = {("gap", "long", "short"), ("blend", "mix", "long"), ("blend", "mix", "short")}
    assert planned_of(*others, long, short, blend, merges=merges) == {*found, ("merge", "merged", "mix")}
    assert planned_of(*others, long, blend) == {("blend", "mix", "long")}, "nothing imitates short traces"


def test_arms_that_all_share_another_objective_are_compared_and_those_of_several_are_not() -> None:
    names = {"long": {"long": 1.0}, "short": {"short": 1.0}, "mix": {"long": 0.2, "short": 0.8}}
    own = [{"name": name, "weights": weights, **OWN_ANSWERS} for name, weights in names.items()]
    found = {("gap", "long", "short"), ("blend", "mix", "long"), ("blend", "mix", "short")}
    assert planned_of(*own) == found
    assert planned_of(*own, {"name": "dpo", "pools": ["long"], **PAIRED}) == found
    larger = {"kind": "reinforce", "samples": 16}
    assert planned_of(*own[:2], own[2] | {"objective": larger}) == set()


def test_steps_are_set_apart_only_between_arms_of_one_objective() -> None:
    blend = {"name": "mix", "weights": {"long": 0.2, "short": 0.8}}
    own_steps = blend | {"name": "mix-24", "num_steps": 24}
    pure = {"name": "short", "weights": {"short": 1.0}}
    train = {"budget": "steps", "num_steps": 60, "unmatched": True}

    def pairs(*pures: dict[str, Any]) -> list[tuple[str, str]]:
        found = unequal_pairs(make_recipe(mixes=[blend, own_steps, *pures], train=train))
        return [(one.blend, one.pure) for one in found]

    assert pairs(pure) == [("mix-24", "short")]
    assert pairs(pure | OWN_ANSWERS, {"name": "dpo", "pools": ["long"], **PAIRED}) == []


def test_a_sweep_leaves_out_other_objectives_and_arms_without_a_share(tmp_path: Path) -> None:
    weights = {"short": (0, 1), "long": (1, 0), "mix": (0.2, 0.8)}
    mixes = [{"name": name, "weights": {"long": a, "short": b}} for name, (a, b) in weights.items()]
    recipe = make_recipe(
        mixes=[
            *mixes,
            {"name": "rl", "weights": {"long": 0.5, "short": 0.5}, **OWN_ANSWERS},
            {"name": "dpo", "pools": ["long"], **PAIRED},
            {"name": "fitting", "policy": "student_fit", "pools": ["long", "short"], "student": "smol-135m"},
        ]
    )
    run_dir = RunDir(str(tmp_path))
    write_scores(run_dir, recipe, random.Random(1), 20)
    arms = arm_scores(build_arms(recipe, list(read_scores(recipe, run_dir))), [])
    found = sweeps(recipe, arms, [])
    assert [[(point.share, point.mix) for point in one.points] for one in found] == [
        [(0.0, "short"), (0.2, "mix"), (1.0, "long")]
    ] * len(recipe.students)


def test_sweeps_of_one_pool_against_two_others_are_two_plots(report: Report) -> None:
    one = report.sweeps[0]
    of_both = dataclasses.replace(report, sweeps=(one, dataclasses.replace(one, other="third")))
    names = [name for name in all_plots(of_both) if name.startswith("sweep ")]
    assert len(names) == 2 and names[1].endswith("by the weight of long against third")


def test_large_against_small_teacher_is_recognised_by_their_sizes() -> None:
    teachers = [{"name": name, "model": "smol-135m", "style": "short"} for name in ("large", "small")]
    mixes = [{"name": f"only-{name}", "weights": {name: 1.0}} for name in ("small", "large")]
    recipe = make_recipe(teachers=teachers, mixes=mixes)
    pairs = planned_pairs(recipe, {"large": 72_000, "small": 3_000})
    assert [(pair.first, pair.second) for pair in pairs if pair.purpose == "large_gap"] == [
        ("only-large", "only-small")
    ]
    assert not [pair for pair in planned_pairs(recipe, {}) if pair.purpose == "large_gap"]


def test_each_family_is_corrected_by_itself_over_all_students_and_benchmarks(report: Report) -> None:
    for family in ("training", "mix", "other pairs"):
        mine = [one for one in report.comparisons if one.family == family]
        assert {one.benchmark for one in mine} == {"easy", "hard", MACRO}
        assert [one.p_adjusted for one in mine] == pytest.approx(holm([one.p_value for one in mine]))


def test_the_headline_is_about_the_mean_of_all_benchmarks(report: Report) -> None:
    gain = next(one for one in report.comparisons if (one.first, one.benchmark) == ("small@mix-long", MACRO))
    assert "2 benchmarks on average" in report.headline
    assert f"{abs(gain.difference) * 100:.0f} points" in report.headline
    macro = next(one for one in report.macros if one.label == "small@mix-long")
    arms = [arm for arm in report.arms if arm.label == "small@mix-long"]
    assert macro.accuracy == pytest.approx(np.mean([arm.accuracy for arm in arms]), abs=0.005)
    assert macro.interval.low < macro.accuracy < macro.interval.high


def test_a_sweep_has_every_weight_of_two_pools_in_order(report: Report) -> None:
    sweep = next(one for one in report.sweeps if (one.student, one.benchmark) == ("mid", MACRO))
    assert (sweep.pool, sweep.other) == ("long", "short")
    assert [(point.share, point.mix) for point in sweep.points] == [
        (0.0, "short"),
        (0.2, "mix-long"),
        (0.5, "half"),
        (1.0, "long"),
    ]


def test_costs_count_every_token_of_the_pools_and_every_device(report: Report) -> None:
    cost = next(one for one in report.costs if (one.student, one.mix) == ("mid", "mix-long"))
    alone = [next(one for one in report.costs if (one.student, one.mix) == ("mid", mix)) for mix in ("long", "short")]
    assert cost.teacher_tokens == sum(one.teacher_tokens or 0 for one in alone)
    assert cost.device_s == 2 * 71.5
    assert cost.gain and cost.gain.is_shown
    assert cost.tokens_per_point == pytest.approx(cost.teacher_tokens / (cost.gain.difference * 100))


def test_accuracy_is_shown_by_level_but_not_by_a_subject_that_all_share(report: Report) -> None:
    groups = [one for one in report.groups if (one.student, one.mix) == ("mid", "")]
    assert [(one.benchmark, one.by, one.group) for one in groups] == [
        ("hard", "level", f"Level {number}") for number in range(3)
    ]
    whole = next(arm for arm in report.arms if (arm.label, arm.benchmark) == ("mid", "hard"))
    assert sum(one.num_prompts for one in groups) == whole.num_prompts
    assert sum(one.accuracy * one.num_prompts for one in groups) == pytest.approx(whole.accuracy * whole.num_prompts)


def test_the_papers_numbers_are_shown_beside_ours_for_its_students(report: Report) -> None:
    rows = {row.what: row for row in report.paper}
    assert rows["small@long - small@short"].paper == pytest.approx(-0.072)
    assert [rows[name].paper for name in ("mid@mix-long", "mid")] == pytest.approx([0.459, 0.425])
    ours = next(one for one in report.macros if one.label == "mid@mix-long")
    assert rows["mid@mix-long"].ours == ours.accuracy and rows["mid@mix-long"].interval == ours.interval
    assert "mid@half" not in rows
    page = render_page(report)
    assert "Beside the paper’s numbers" in page and "Cost of the gains" in page and "Accuracy by level" in page


def test_only_the_papers_own_mix_is_set_beside_its_number() -> None:
    weights = {"long": 0.2, "short": 0.8}
    recipe = paper_recipe(
        {"name": "by-tokens", "policy": "weighted_tokens", "weights": weights},
        {"name": "hard", "policy": "hard_gets_long", "weights": weights, "order": ["long", "short"]},
        {"name": "in-order", "policy": "curriculum", "weights": weights, "order": ["short", "long"]},
        {"name": "rewarded", "weights": weights, **OWN_ANSWERS},
        {"name": "moded", "weights": weights, "modes": {"long": "Think.", "short": "Be brief."}},
    )
    blends = [
        row.what for row in paper_rows(recipe, [], [], []) if row.what.startswith("mid@") and " - " not in row.what
    ]
    assert blends == ["mid@long", "mid@short", "mid@mix-long"]


def test_another_recipe_is_not_set_beside_the_paper(tmp_path: Path) -> None:
    recipe = make_recipe()
    report = build_report(recipe, make_run(tmp_path, recipe))
    assert report.paper == () and "Beside the paper" not in render_page(report)
    assert report.benchmark_rows[0].num_problems == 100 and report.benchmark_rows[0].num_published is None


def test_the_page_says_which_commit_was_read_where_none_was_pinned(tmp_path: Path) -> None:
    source = {"kind": "hub", "dataset": "owner/sums", "split": "test"}
    recipe = make_recipe(benchmarks={"sums": {"source": source}}, evaluate={"benchmarks": ["sums", "gsm8k"]})
    run_dir = make_run(tmp_path, recipe, num_prompts=20, num_scored=20)
    pinned = DEFINITIONS["gsm8k"].config.source
    assert isinstance(pinned, HubSource)
    commits = {"owner/sums@main": "0123456789abcdef" * 2 + "01234567", versioned(pinned): pinned.revision}
    run_dir.write_manifest(Manifest("prompts", "key", details={"commits": commits}), "prompts")
    report = build_report(recipe, run_dir)
    assert [(row.revision, row.commit) for row in report.benchmark_rows] == [
        ("main (not pinned)", commits["owner/sums@main"]),
        (pinned.revision, None),
    ]
    assert report.provenance.commits == commits
    page = render_page(report)
    assert "commit read: 0123456789ab" in page and f"owner/sums@main: {commits['owner/sums@main']}" in page


def test_the_front_holds_what_nothing_beats_at_fewer_tokens(report: Report) -> None:
    def arm(tokens: float, accuracy: float) -> Any:
        return dataclasses.replace(report.arms[0], mean_tokens=tokens, accuracy=accuracy)

    front = pareto_front([arm(100, 0.5), arm(50, 0.3), arm(60, 0.2), arm(200, 0.5), arm(300, 0.7)])
    assert [(one.mean_tokens, one.accuracy) for one in front] == [(50, 0.3), (100, 0.5), (300, 0.7)]
    assert 2 <= len(token_ticks([50.0, 300.0])) <= 5
