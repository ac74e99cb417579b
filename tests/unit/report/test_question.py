"""The answer to the primary question: its test, its words, and where it is shown."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distill.config.question import Candidate, candidates
from distill.config.recipe import Recipe
from distill.evaluate.interval import Interval
from distill.evaluate.power import minimum_detectable
from distill.evaluate.statistics import holm
from distill.report.build import build_report
from distill.report.html import render_page
from distill.report.question import answer_question, intersection_union_p
from distill.report.score_data import Comparison, QuestionResult
from distill.report.tables import print_report
from distill.report.write import write_report
from tests.fixtures.report_run import make_recipe, make_run

pytestmark = pytest.mark.usefixtures("unrendered_plots")

BLENDS = {"half": {"long": 0.5, "short": 0.5}, "mix": {"long": 0.2, "short": 0.8}}
PURE = {"long": {"long": 1.0}, "short": {"short": 1.0}}
MIXES = [{"name": name, "weights": weights} for name, weights in {**PURE, **BLENDS}.items()]


def compared(first: str, second: str, points: float, p: float, **changes: Any) -> Comparison:
    """First minus second, points, with an interval of 4 points to either side."""
    one = Comparison(
        purpose="blend",
        family="mix",
        student="s",
        benchmark="sums",
        first=f"s@{first}",
        second=f"s@{second}",
        difference=points / 100,
        interval=Interval((points - 4) / 100, (points + 4) / 100),
        standard_error=0.02,
        degrees=None,
        p_value=p,
        p_adjusted=p,
        test="t",
        num_prompts=500,
        is_shown=p < 0.05,
    )
    return replace(one, **changes)


def asked(**question: Any) -> Recipe:
    source = {"kind": "reasoning_gym", "task": "chain_sum", "size": 9, "seed": 2}
    return make_recipe(
        mixes=MIXES,
        models={"m": {"sources": ["hub/m"]}},
        teachers=[{"name": name, "model": "m", "style": name} for name in PURE],
        students=[{"name": "s", "model": "m"}],
        benchmarks={"sums": {"source": source}},
        evaluate={"benchmarks": ["sums"]},
        question=question,
    )


def answered(*comparisons: Comparison, recipe: Recipe | None = None) -> QuestionResult:
    recipe = recipe or asked()
    assert recipe.question is not None
    found = answer_question(recipe, candidates(recipe.question, recipe.mixes, recipe.merges), comparisons)
    assert found is not None
    return found


def test_an_arm_is_better_than_all_only_with_the_weakest_of_its_comparisons() -> None:
    assert intersection_union_p([(0.1, 0.001), (0.02, 0.04)]) == 0.04
    assert intersection_union_p([(0.1, 0.001), (-0.02, 0.001)]) == 1.0
    assert intersection_union_p([(0.1, 0.001), (0.0, 1.0)]) == 1.0


def test_a_better_arm_is_the_answer_with_its_differences_and_corrected_p() -> None:
    found = answered(
        compared("mix", "long", 10, 0.0004),
        compared("short", "mix", -6, 0.006),  # an unplanned pair may be stored the other way round
        compared("half", "long", 1, 0.6),
        compared("half", "short", -3, 0.15),
    )
    assert found.question == "Does any of `half`, `mix` beat both `long` and `short` on `sums`?"
    assert found.answer == (
        "Yes: `mix` beats `long` by 10.0 points [6.0, 14.0] and `short` by 6.0 points [2.0, 10.0] "
        "(Holm-corrected p = 0.012)."
    )
    half, mix = found.candidates
    assert (half.arm, half.p_value, half.p_adjusted, half.verdict) == ("half", 1.0, 1.0, "not shown")
    assert (mix.arm, mix.p_value, mix.p_adjusted, mix.verdict) == ("mix", 0.006, 0.012, "better")


def test_without_a_better_arm_the_best_is_named_with_what_would_have_been_detected() -> None:
    found = answered(
        compared("mix", "long", 3, 0.15),
        compared("mix", "short", 1, 0.6),
        compared("half", "long", -6, 0.002),
        compared("half", "short", -9, 0.0001),
    )
    # Each of two comparisons may miss it in 10 %, at the level of the first of two of Holm's steps.
    points = 100 * minimum_detectable(0.02, float("inf"), power=0.9, alpha=0.025)
    assert points == pytest.approx(7.0, abs=0.1)
    assert found.answer == (
        "Not shown: the best candidate is `mix`, +3.0 points [−1.0, 7.0] against `long` and +1.0 points [−3.0, 5.0] "
        "against `short` (Holm-corrected p = 1.000); a true difference of about 7 points would have been detected with "
        "80 % power. Shown to be worse than all: `half` is below `long` by 6.0 points [2.0, 10.0] and `short` by 9.0 "
        "points [5.0, 13.0]."
    )
    assert [one.verdict for one in found.candidates] == ["worse", "not shown"]


def test_where_every_candidate_is_worse_the_answer_is_no() -> None:
    worse = [compared("mix", "long", -6, 0.002), compared("mix", "short", -9, 0.0001)]
    found = answered(*worse, recipe=asked(arms=["mix"]))
    assert found.answer == (
        "No, the opposite is shown: `mix` is below `long` by 6.0 points [2.0, 10.0] and `short` by 9.0 points "
        "[5.0, 13.0]."
    )
    unfinished = answered(*worse, recipe=asked(arms=["mix", "half"]))
    assert unfinished.answer.startswith("Not shown") and unfinished.answer.endswith("Not compared yet: `s@half`.")


def test_a_difference_whose_interval_holds_zero_is_not_shown() -> None:
    wide = Interval(-0.001, 0.2)
    found = answered(
        compared("mix", "long", 10, 0.0001, interval=wide),
        compared("mix", "short", 10, 0.0001),
        compared("half", "long", 1, 0.6),
        compared("half", "short", 1, 0.6),
    )
    assert [one.verdict for one in found.candidates] == ["not shown", "not shown"]


def test_with_a_margin_an_arm_is_held_that_is_shown_not_to_be_so_much_worse() -> None:
    recipe = asked(margin_points=6)
    near, far = (
        compared(arm, other, points, 0.6, standard_error=0.02)
        for arm, other, points in (("mix", "long", -1), ("half", "long", -3))
    )
    others = [compared(arm, "short", 2, 0.3) for arm in ("mix", "half")]
    found = answered(near, far, *others, recipe=recipe)
    assert found.question == "Is any of `half`, `mix` less than 6 points below both `long` and `short` on `sums`?"
    half, mix = found.candidates
    # 5 points above the margin with an error of 2: two-sided, as every p of the report; of 3 points, 1.5 errors.
    assert mix.p_value == pytest.approx(0.0124, abs=1e-4) and half.p_value == pytest.approx(0.1336, abs=1e-4)
    assert (mix.verdict, half.verdict) == ("held", "not shown")
    assert mix.p_adjusted == pytest.approx(2 * mix.p_value)
    assert found.answer == (
        "Yes: `mix`: −1.0 points [−5.0, 3.0] against `long` and +2.0 points [−2.0, 6.0] against `short` "
        "(Holm-corrected p = 0.025)."
    )
    plain = answered(near, far, *others).candidates[1]
    assert mix.detectable == pytest.approx(plain.detectable - 0.06)


def test_an_arm_that_is_worse_by_less_than_the_margin_is_held_and_one_that_is_worse_by_more_is_worse() -> None:
    recipe = asked(arms=["half", "mix"], over=["long"], margin_points=6)
    a_little = compared("mix", "long", -2, 0.004, interval=Interval(-0.034, -0.006), standard_error=0.007)
    much = compared("half", "long", -12, 0.0001)
    half, mix = answered(a_little, much, recipe=recipe).candidates
    assert (half.verdict, mix.verdict) == ("worse", "held")
    unclear = answered(compared("half", "long", -5, 0.02), recipe=recipe)
    assert unclear.answer.startswith("Not shown: the best candidate is `half`, −5.0 points [−9.0, −1.0] against `long`")
    assert "a true difference of about 0 points would have been enough with 80 % power" in unclear.answer


def test_arms_that_are_not_scored_yet_are_named() -> None:
    assert answered().answer == (
        "Not answered: no candidate was scored beside all arms that it must beat. Not compared yet: `s@half`, `s@mix`."
    )
    found = answered(compared("mix", "long", 10, 0.0001), compared("mix", "short", 9, 0.0001))
    assert found.answer.startswith("Yes: `mix` beats") and found.answer.endswith("Not compared yet: `s@half`.")
    assert [one.p_adjusted for one in found.candidates] == [0.0001]


def test_the_question_names_its_arms_as_they_are_few_or_many() -> None:
    recipe = asked(arms=["mix"], over=["short"])
    assert answered(recipe=recipe).question == "Does `mix` beat `short` on `sums`?"
    recipe = asked(arms=["mix"], over=["short", "long", "half"])
    assert answered(recipe=recipe).question == "Does `mix` beat each of `short`, `long` and `half` on `sums`?"


def test_a_run_is_answered_over_all_its_students_from_the_reports_own_comparisons(tmp_path: Path) -> None:
    names = {"arithmetic", "algebra"}
    source = {"kind": "reasoning_gym", "task": "chain_sum", "seed": 5}
    benchmarks = {name: {"source": source} for name in sorted(names)}
    recipe = make_recipe(benchmarks=benchmarks, evaluate={"benchmarks": sorted(names)}, question={})
    run_dir = make_run(tmp_path, recipe, num_scored=300)
    report = build_report(recipe, run_dir)
    assert report.question is not None
    assert report.question.question == (
        "Does `mix-long` beat both `short` and `long` on the mean of all benchmarks, for any of `smol-135m`, `smol-8l`?"
    )
    assert [one.student for one in report.question.candidates] == ["smol-135m", "smol-8l"]
    for one in report.question.candidates:
        assert [each.second for each in one.comparisons] == [f"{one.student}@short", f"{one.student}@long"]
        assert all(each in report.comparisons for each in one.comparisons)
        assert one.p_value == max(each.p_value for each in one.comparisons)
    raw = [one.p_value for one in report.question.candidates]
    assert [one.p_adjusted for one in report.question.candidates] == holm(raw)
    assert report.question.answer.startswith("Yes: `smol-135m@mix-long` beats `short` by ")
    page, stream = render_page(report), io.StringIO()
    assert page.index("Does <code>mix-long</code> beat") < page.index("Yes: <code>smol-135m@mix-long</code>")
    assert page.index("Yes: ") < page.index('id="question"') < page.index('id="accuracy"')
    print_report(report, Console(file=stream, width=200))
    assert stream.getvalue().startswith("Does mix-long beat both short and long on the mean of all benchmarks")
    assert "The question's arms on mean of all" in stream.getvalue()
    write_report(report, run_dir)
    stored = json.loads((tmp_path / "report" / "report.json").read_text())["question"]
    assert stored["answer"] == report.question.answer and len(stored["candidates"]) == 2


def test_no_question_no_answer(tmp_path: Path) -> None:
    recipe = make_recipe()
    assert answer_question(recipe, (Candidate("mix-long", ("short",)),), []) is None
    report = build_report(recipe, make_run(tmp_path, recipe, num_prompts=20, num_scored=20))
    assert report.question is None and 'id="question"' not in render_page(report)
