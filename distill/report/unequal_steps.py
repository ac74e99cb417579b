"""As published against matched: how much of the difference between two arms is due to unequal numbers of steps.

Where mixes exist both with the steps of `[train]` and with a `num_steps` of their own, a blend minus a pure arm is
measured twice: with unequal steps, and with matched ones. What matched steps remove is the difference between the two,
with an interval that accounts for the problems that all arms share.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from distill.config.recipe import Recipe
from distill.evaluate.interval import Interval
from distill.evaluate.power import ALPHA
from distill.evaluate.statistics import holm
from distill.report.arms import Arm
from distill.report.base_vs_instruct import arms_by_label, change_between
from distill.report.comparisons import MACRO, both_ways, share_prompts
from distill.report.families import UnequalPair, unequal_pairs
from distill.report.formats import bounds, percent, points
from distill.report.score_data import Comparison, StepsChange

Made = Mapping[tuple[str, str, str], Comparison]
"""(first, second, benchmark) -> comparison."""


class _Change(NamedTuple):
    """Unequal minus matched."""

    key: tuple[str, ...]
    """The arms that it is computed from, and the benchmark."""
    difference: float
    interval: Interval
    p_value: float


def steps_changes(
    recipe: Recipe, arms: Sequence[Arm], comparisons: Sequence[Comparison], rng: np.random.Generator
) -> list[StepsChange]:
    """Every blend and pure arm that were scored with unequal and with matched steps, on every benchmark and their mean.

    The p-values are corrected over all of them.
    """
    made = both_ways(comparisons)
    groups, found = arms_by_label(recipe, arms), list[tuple[UnequalPair, Comparison, Comparison, _Change]]()
    for student, pair in ((student.name, pair) for student in recipe.students for pair in unequal_pairs(recipe)):
        labels = [f"{student}@{arm}" for arm in pair]
        blend, pure, matched_blend, matched_pure = labels
        for benchmark in (*recipe.evaluate.benchmarks, MACRO):
            unequal = made.get((blend, pure, benchmark))
            matched = made.get((matched_blend, matched_pure, benchmark))
            change = _change(labels, benchmark, made, groups, rng) if unequal and matched else None
            if unequal and matched and change:
                found.append((pair, unequal, matched, change))
    # A change that several gaps share, that of the one arm in which they differ, counts once.
    distinct = list(dict.fromkeys(change for *_, change in found))
    adjusted = dict(zip(distinct, holm([change.p_value for change in distinct]), strict=True))
    steps = {mix.name: mix.num_steps or recipe.train.num_steps for mix in recipe.mixes}
    return [
        StepsChange(
            student=unequal.student,
            benchmark=unequal.benchmark,
            unequal=unequal,
            matched=matched,
            steps=(steps[pair.blend.partition(":")[0]], steps[pair.pure]),
            matched_steps=recipe.train.num_steps,
            difference=change.difference,
            interval=change.interval,
            p_value=change.p_value,
            p_adjusted=adjusted[change],
            is_shown=adjusted[change] < ALPHA and not change.interval.covers(0.0),
        )
        for pair, unequal, matched, change in found
    ]


def _change(
    labels: Sequence[str],
    benchmark: str,
    made: Made,
    groups: Mapping[tuple[str, str], tuple[Arm, ...]],
    rng: np.random.Generator,
) -> _Change | None:
    """Unequal minus matched. An arm that is in both cancels out: what is left is a comparison that was made already."""
    blend, pure, matched_blend, matched_pure = labels
    if pure == matched_pure or blend == matched_blend:
        key = (blend, matched_blend) if pure == matched_pure else (matched_pure, pure)
        one = made.get((*key, benchmark))
        return _Change((*key, benchmark), one.difference, one.interval, one.p_value) if one else None
    four = [groups[label, benchmark] for label in labels]
    if not all(share_prompts(*group) for group in zip(*four, strict=True)):
        return None
    found = change_between(four, rng, is_macro=benchmark == MACRO)
    return _Change((*labels, benchmark), found.estimate, found.interval, found.p_value)


def steps_words(changes: Sequence[StepsChange]) -> Iterator[str]:
    """How much of every gap matched steps remove, on the mean of the benchmarks, or on each where there is no mean."""
    where = [one for one in changes if one.benchmark == MACRO] or changes
    for one in where:
        first, second = (label.removeprefix(f"{one.student}@") for label in (one.unequal.first, one.unequal.second))
        yield (
            f"`{one.student}` on {one.benchmark}: `{first}` ({_steps(one.steps[0])}) minus `{second}` "
            f"({_steps(one.steps[1])}) is {_points(one.unequal)}; with {_steps(one.matched_steps)} for both it is "
            f"{_points(one.matched)}. {_removed(one)}"
        )


def _steps(number: int | None) -> str:
    return "steps not recorded" if number is None else f"{number:,} steps"


def _points(one: Comparison | StepsChange) -> str:
    return f"{points(one.difference, 1)} points {bounds(one.interval, 1)}"


def _removed(one: StepsChange) -> str:
    """The share of the unequal gap that matched steps remove, where there is a gap and the change is shown."""
    change = f"unequal minus matched {_points(one)}"
    if not one.is_shown:
        return f"That matched steps change it is not shown: {change}."
    if one.unequal.interval.covers(0.0):
        return f"Matched steps change it ({change})."
    share = one.difference / one.unequal.difference
    if share < 0:
        return f"Matched steps widen the gap ({change})."
    if share > 1:
        return f"Matched steps turn the gap round ({change})."
    return f"Matched steps remove {percent(share)} of the gap ({change})."
