"""What training broke: every arm less its untouched student on the benchmarks that measure it.

Such benchmarks are no part of the means, of the other comparisons or of their corrections: they answer another
question. Instructions have two readings (IFEval's strict and loose one), refusals two judges (rules, and a language
model where the recipe names one); each reading is a family of its own for Holm's correction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from distill.config.benchmarks import benchmark_config, regression_benchmarks
from distill.config.recipe import Recipe
from distill.config.sources import kind_of
from distill.core.schema import AnswerKind, Verdict
from distill.evaluate.read_scores import Scored
from distill.evaluate.statistics import accuracy, holm, paired_difference
from distill.report.arms import Arm, build_arms
from distill.report.comparisons import Found, comparison_of, share_prompts
from distill.report.formats import bounds, points
from distill.report.score_data import Regression

READINGS = {AnswerKind.INSTRUCTIONS: ("strict", "loose"), AnswerKind.REFUSAL: ("rules", "judge")}
"""Kind of answer -> what its two readings are called; other kinds have one, without a name."""
MAX_IN_LINE = 4


def without_regressions(recipe: Recipe) -> Recipe:
    """The recipe with the benchmarks that its arms are trained for: those that the question is about, and that are not
    there for what training may break. Where there are no others, all."""
    broken = set(regression_benchmarks(recipe.benchmarks, recipe.evaluate.benchmarks))
    asked = recipe.question.benchmark if recipe.question else None
    aims = tuple(name for name in recipe.evaluate.benchmarks if name not in broken or name == asked)
    if not aims or len(aims) == len(recipe.evaluate.benchmarks):
        return recipe
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"benchmarks": aims})})


def regressions(recipe: Recipe, scores: Sequence[Scored], rng: np.random.Generator) -> list[Regression]:
    """Every arm less its untouched student, by benchmark and reading, each reading corrected over all its lines."""
    names = regression_benchmarks(recipe.benchmarks, recipe.evaluate.benchmarks)
    mine = [one for one in scores if one.benchmark in names]
    first = _corrected(recipe, mine, list(_less_untouched(recipe, mine, "regression", rng)), reading=0)
    second = [_second_reading(one) for one in mine if (one.second_verdicts != "").any()]
    found = list(_less_untouched(recipe, second, "regression_second", rng))
    return sorted([*first, *_corrected(recipe, second, found, reading=1)], key=lambda one: names.index(one.benchmark))


def _second_reading(scored: Scored) -> Scored:
    """With the verdicts of the other reading; what that did not judge counts as not graded."""
    verdicts = np.where(scored.second_verdicts == "", Verdict.ERROR.value, scored.second_verdicts)
    return replace(scored, verdicts=verdicts)


def _less_untouched(
    recipe: Recipe, scores: Sequence[Scored], purpose: str, rng: np.random.Generator
) -> Iterator[Found]:
    arms = build_arms(recipe, scores)
    untouched = {(arm.student, arm.benchmark): arm for arm in arms if not arm.mix}
    for arm in arms:
        before = untouched.get((arm.student, arm.benchmark))
        if arm.mix and before and share_prompts(arm, before):
            difference = paired_difference(arm.shares, before.shares, rng)
            yield Found(purpose, arm, before, arm.benchmark, difference)


def _corrected(recipe: Recipe, scores: Sequence[Scored], found: Sequence[Found], *, reading: int) -> list[Regression]:
    adjusted = holm([one.difference.p_value for one in found])
    return [
        Regression(
            student=one.first.student,
            mix=one.first.mix,
            benchmark=one.benchmark,
            reading=READINGS.get(_kind(recipe, one.benchmark), ("", ""))[reading],
            untouched=accuracy(one.second.shares),
            accuracy=accuracy(one.first.shares),
            single_untouched=_single(one.second, reading),
            single=_single(one.first, reading),
            change=comparison_of(one, p_adjusted),
        )
        for one, p_adjusted in zip(found, adjusted, strict=True)
    ]


def _kind(recipe: Recipe, benchmark: str) -> AnswerKind:
    return kind_of(benchmark_config(recipe.benchmarks, benchmark).source)


def _single(arm: Arm, reading: int) -> float | None:
    """Share of all single instructions that are followed, whatever their prompts; None where there are none."""
    counts = np.concatenate([run.instructions for run in arm.runs])
    num = int(counts[:, 0].sum())
    return float(counts[:, 1 + reading].sum()) / num if num else None


def regression_words(rows: Sequence[Regression]) -> list[str]:
    """What training broke, in a sentence per benchmark; under the first reading alone."""
    main = [one for one in rows if one.change.purpose == "regression"]
    names = dict.fromkeys(one.benchmark for one in main)
    return [_benchmark_words(name, [one for one in main if one.benchmark == name]) for name in names]


def _benchmark_words(benchmark: str, rows: Sequence[Regression]) -> str:
    below = [one for one in rows if one.is_below]
    if not below:
        return f"`{benchmark}`: of {len(rows)} arms none is shown below its untouched student."
    worst = sorted(below, key=lambda one: one.change.difference)[:MAX_IN_LINE]
    named = ", ".join(
        f"`{one.change.first}` {points(one.change.difference, 1)} points {bounds(one.change.interval, 1)}"
        + ("" if one.change.is_shown else " (not after correction)")
        for one in worst
    )
    more = f", and {len(below) - len(worst)} more" if len(below) > len(worst) else ""
    return f"`{benchmark}`: {len(below)} of {len(rows)} arms below their untouched student: {named}{more}."
