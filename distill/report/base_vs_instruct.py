"""Base against instruct: how the gaps of a student differ before and after its instruction tuning.

The paper (arXiv 2502.12143) finds larger gaps, further below zero, for base students. These differences of differences
are a family of their own for Holm's correction: the recipe plans them by naming the pairs (`students[].base_of`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from distill.config.recipe import Recipe
from distill.evaluate.power import ALPHA
from distill.evaluate.statistics import Difference, holm, macro_change, paired_change
from distill.report.arms import Arm, whole_arms
from distill.report.comparisons import MACRO, share_prompts
from distill.report.score_data import GAPS, Comparison, GapChange


class _Found(NamedTuple):
    """A change before the correction."""

    base: Comparison
    instruct: Comparison
    difference: Difference


def gap_changes(
    recipe: Recipe, arms: Sequence[Arm], comparisons: Sequence[Comparison], rng: np.random.Generator
) -> list[GapChange]:
    """Every gap that both students of a pair have, on every benchmark and on their mean."""
    found = list(_found(recipe, arms, comparisons, rng))
    adjusted = holm([one.difference.p_value for one in found])
    return [_change(one, p_adjusted) for one, p_adjusted in zip(found, adjusted, strict=True)]


def _found(
    recipe: Recipe, arms: Sequence[Arm], comparisons: Sequence[Comparison], rng: np.random.Generator
) -> Iterator[_Found]:
    groups = arms_by_label(recipe, arms)
    for base, instruct in _paired_gaps(recipe, comparisons):
        labels = (base.first, base.second, instruct.first, instruct.second)
        four = [groups[label, base.benchmark] for label in labels]
        if all(share_prompts(*group) for group in zip(*four, strict=True)):
            yield _Found(base, instruct, change_between(four, rng, is_macro=base.benchmark == MACRO))


def arms_by_label(recipe: Recipe, arms: Sequence[Arm]) -> Mapping[tuple[str, str], tuple[Arm, ...]]:
    """(label, benchmark) -> the arm on it; on all benchmarks for their mean."""
    whole = whole_arms(arms, len(recipe.evaluate.benchmarks))
    return {(arm.label, arm.benchmark): (arm,) for arm in arms} | {(group[0].label, MACRO): group for group in whole}


def _paired_gaps(recipe: Recipe, comparisons: Sequence[Comparison]) -> Iterator[tuple[Comparison, Comparison]]:
    """The gaps of every base student, each with the gap of its instruction-tuned version between the same mixes."""
    tuned = {student.name: student.base_of for student in recipe.students if student.base_of}
    gaps = {_key(one): one for one in comparisons if one.purpose in GAPS}
    for one in gaps.values():
        other = gaps.get(_key(one, tuned.get(one.student, "")))
        if other is not None:
            yield one, other


def _key(one: Comparison, student: str | None = None) -> tuple[str, ...]:
    mixes = [label.removeprefix(f"{one.student}@") for label in (one.first, one.second)]
    return (one.purpose, one.benchmark, *mixes, one.student if student is None else student)


def change_between(four: Sequence[Sequence[Arm]], rng: np.random.Generator, *, is_macro: bool) -> Difference:
    """How much larger the first two arms' difference is than that of the last two; each arm's entries by benchmark."""
    shares = [[arm.shares for arm in group] for group in four]
    if is_macro:
        return macro_change(shares)
    (first, second, third, fourth) = (group[0] for group in shares)
    return paired_change((first, second), (third, fourth), rng)


def _change(one: _Found, p_adjusted: float) -> GapChange:
    return GapChange(
        base=one.base,
        instruct=one.instruct,
        difference=one.difference.estimate,
        interval=one.difference.interval,
        p_value=one.difference.p_value,
        p_adjusted=p_adjusted,
        test=one.difference.test,
        num_prompts=one.difference.num_prompts,
        is_shown=p_adjusted < ALPHA and not one.difference.interval.covers(0.0),
    )
