"""The comparisons between arms. Which are made and which form a family is decided by the recipe, never by the results.

Each family is corrected by Holm on its own, over every student and benchmark of the report, since a reader may quote
any of its lines. `training`: does it help? Every mix against the untouched student. `mix`: does the mix matter? The
gaps, and every blend against each of its pools alone, which the recipe plans, among arms of one objective. `unequal
steps`: blends against their pools where the recipe sets their steps apart. `stages`: an arm that starts from another
against that one, and against the same traces taught in one stage. `answering`: a student that is made to answer in
another way against itself as it answers by itself. `equal answering`: two arms of a student that are made to answer in
the same way. `other pairs`: all pairs that the recipe does not plan; as a family of their own they do not cost the
planned ones any power. The families of what training may break are made in `regressions`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from distill.config.arm_graph import ArmConfig, arm_budgets
from distill.config.eval_arms import AnsweringPlan
from distill.config.mix import MergeConfig, MixConfig, PairsMix
from distill.config.recipe import Recipe
from distill.core.schema import Style
from distill.evaluate.arms import arm_name, bases_of
from distill.evaluate.interval import Interval
from distill.evaluate.power import ALPHA, minimum_detectable
from distill.evaluate.statistics import Difference, holm, macro_difference, paired_difference
from distill.evaluate.variance import Error
from distill.report.arms import Arm, whole_arms
from distill.report.families import STEPS_OF_STAGES, arm_families, merges_of, told_by_traces, unequal_pairs
from distill.report.score_data import Comparison, Detectable

MACRO = "mean of all"
"""In the place of a benchmark's name: the mean over all of them."""
FAMILIES = {
    "gain": "training",
    "gap": "mix",
    "large_gap": "mix",
    "blend": "mix",
    "merge": "mix",
    "unequal": "unequal steps",
    "stage": "stages",
    "regression": "regression",
    "regression_second": "regression, second reading",
    "answering": "answering",
    "equal_answering": "equal answering",
    "other": "other pairs",
}
"""Purpose of a comparison -> the family in which it is corrected."""


@dataclass(frozen=True)
class Pair:
    """Two arms of one student that are compared; mixes by name, empty for untouched."""

    purpose: str
    first: str
    second: str


@dataclass(frozen=True)
class Found:
    """A comparison before its family's correction."""

    purpose: str
    first: Arm
    second: Arm
    benchmark: str
    difference: Difference


def pure_style(mix: MixConfig, styles: Mapping[str, Style]) -> Style | None:
    """The one style of all pools that have weight in the mix; None for a blend of styles."""
    found = {styles[pool] for pool, share in mix.shares.items() if share != 0 and pool in styles}
    return found.pop() if len(found) == 1 else None


def blends(mixes: Sequence[MixConfig]) -> list[MixConfig]:
    """Mixes that draw from several pools, other than pairs, which blend none."""
    return [mix for mix in mixes if len(mix.drawn) > 1 and not isinstance(mix, PairsMix)]


def planned_pairs(recipe: Recipe, sizes: Mapping[str, int]) -> list[Pair]:
    """Every arm against untouched; and among arms of as many prompts and steps and of one objective (`told_by_traces`),
    long against short, large against small, every blend against each of its pools, and merged students against trained
    blends; then blends against their pools with unequal steps, and arms in stages against their parents and against the
    same in one stage.

    Args:
        sizes: teacher -> parameters of its model, where they are known.
    """
    budgets = arm_budgets(recipe.mixes, recipe.merges)
    pairs = [Pair("gain", arm, "") for arm in recipe.arms]
    for budget in dict.fromkeys(budgets.values()):
        mixes = told_by_traces([mix for mix in recipe.mixes if budgets[mix.name] == budget])
        merges = [merge for merge in recipe.merges if budgets[merge.name] == budget]
        pairs += _equal_pairs(recipe, mixes, merges_of(mixes, merges, recipe.mixes), sizes)
    unequal = [Pair("unequal", one.blend, one.pure) for one in unequal_pairs(recipe)]
    return [*pairs, *unequal, *_stage_pairs(recipe)]


def _equal_pairs(
    recipe: Recipe, mixes: Sequence[MixConfig], merges: Sequence[MergeConfig], sizes: Mapping[str, int]
) -> Iterator[Pair]:
    """The planned pairs of arms that are trained on equally much, with one objective."""
    styles = {teacher.name: teacher.style for teacher in recipe.teachers}
    by_style = {pure_style(mix, styles): mix.name for mix in reversed(mixes)}
    if Style.LONG in by_style and Style.SHORT in by_style:
        yield Pair("gap", by_style[Style.LONG], by_style[Style.SHORT])
    alone = {pool: mix.name for mix in reversed(mixes) for pool, share in mix.shares.items() if share == 1}
    yield from _large_gaps(alone, styles, sizes)
    for mix in blends(mixes):
        for arm, pool in itertools.product(mix.arms, mix.drawn):
            if pool in alone:
                yield Pair("blend", arm, alone[pool])
    for merge, mix in itertools.product(merges, blends(mixes)):
        yield from (Pair("merge", merge.name, arm) for arm in mix.arms)


def _stage_pairs(recipe: Recipe) -> Iterator[Pair]:
    """An arm in stages against the one that it comes after, and against the same traces in one stage: its control of
    as many steps, and the arm without the earlier stage."""
    taught = {mix.name: mix.model_dump_json(exclude={"name", *STEPS_OF_STAGES}) for mix in recipe.mixes}
    by_name = recipe.arm_configs
    for mix in recipe.mixes:
        for parent in mix.starts_from:
            in_one = [
                one
                for one in recipe.mixes
                if taught[one.name] == taught[mix.name] and not one.starts_from and one.after in (None, parent)
            ]
            for other in (by_name[parent], *in_one):
                yield from (Pair("stage", first, second) for first, second in _same_modes(mix, other))


def _same_modes(arm: ArmConfig, other: ArmConfig) -> Iterator[tuple[str, str]]:
    """The names that two arms are scored under, mode by mode; an arm without modes stands beside each of the other."""
    for first, mode in arm.arms.items():
        for second, other_mode in other.arms.items():
            if mode == other_mode or not mode or not other_mode:
                yield first, second


def _large_gaps(alone: Mapping[str, str], styles: Mapping[str, Style], sizes: Mapping[str, int]) -> Iterator[Pair]:
    """Of two pools of one style, the larger teacher's alone against the smaller one's."""
    known = sorted((pool for pool in alone if pool in sizes), key=lambda pool: -sizes[pool])
    for large, small in itertools.combinations(known, 2):
        if styles[large] == styles[small] and sizes[large] > sizes[small]:
            yield Pair("large_gap", alone[large], alone[small])


def all_pairs(recipe: Recipe, sizes: Mapping[str, int]) -> list[Pair]:
    """The planned pairs, then every other two arms in the recipe's order.

    Arms that differ both in their traces and in how much they are trained on are not compared: nothing would explain
    the difference.
    """
    planned, family = planned_pairs(recipe, sizes), arm_families(recipe)
    budgets = arm_budgets(recipe.mixes, recipe.merges)
    made = {frozenset((pair.first, pair.second)) for pair in planned}
    rest = [
        Pair("other", second, first)
        for first, second in itertools.combinations(recipe.arms, 2)
        if {first, second} not in made and (budgets[first] == budgets[second] or family[first] == family[second])
    ]
    return [*planned, *_answering_pairs(recipe), *rest]


def _answering_pairs(recipe: Recipe) -> Iterator[Pair]:
    """Every evaluation arm against the same student as it answers by itself; then those of one way with each other."""
    for arm, bases in bases_of(recipe).items():
        yield from (Pair("answering", arm, base) for base in bases)
    ways: dict[AnsweringPlan, dict[str, None]] = {}
    for one in recipe.evaluate.arms:
        for of, plan in itertools.product(one.answering, one.plans):
            ways.setdefault(plan, {})[arm_name(of.partition("@")[2], plan.suffix)] = None
    for arms in ways.values():
        yield from (Pair("equal_answering", second, first) for first, second in itertools.combinations(arms, 2))


def compare(
    recipe: Recipe, arms: Sequence[Arm], sizes: Mapping[str, int], rng: np.random.Generator
) -> list[Comparison]:
    """Every pair of a student's arms that was scored, on every benchmark and on their mean, corrected by family."""
    pairs = all_pairs(recipe, sizes)
    found = [*_on_benchmarks(recipe, pairs, arms, rng), *_on_macro(recipe, pairs, arms)]
    adjusted: dict[int, float] = {}
    for family in dict.fromkeys(FAMILIES.values()):
        mine = [index for index, one in enumerate(found) if FAMILIES[one.purpose] == family]
        adjusted |= dict(zip(mine, holm([found[index].difference.p_value for index in mine]), strict=True))
    return [comparison_of(one, adjusted[index]) for index, one in enumerate(found)]


def _on_benchmarks(
    recipe: Recipe, pairs: Sequence[Pair], arms: Sequence[Arm], rng: np.random.Generator
) -> Iterator[Found]:
    by_key = {(arm.student, arm.mix, arm.benchmark): arm for arm in arms}
    for benchmark, student, pair in itertools.product(recipe.evaluate.benchmarks, recipe.students, pairs):
        first = by_key.get((student.name, pair.first, benchmark))
        second = by_key.get((student.name, pair.second, benchmark))
        if first and second and share_prompts(first, second):
            difference = paired_difference(first.shares, second.shares, rng)
            yield Found(pair.purpose, first, second, benchmark, difference)


def _on_macro(recipe: Recipe, pairs: Sequence[Pair], arms: Sequence[Arm]) -> Iterator[Found]:
    groups = {(group[0].student, group[0].mix): group for group in whole_arms(arms, len(recipe.evaluate.benchmarks))}
    for student, pair in itertools.product(recipe.students, pairs):
        first, second = groups.get((student.name, pair.first)), groups.get((student.name, pair.second))
        if first and second and all(map(share_prompts, first, second)):
            difference = macro_difference([arm.shares for arm in first], [arm.shares for arm in second])
            yield Found(pair.purpose, first[0], second[0], MACRO, difference)


def share_prompts(*arms: Arm) -> bool:
    """Whether at least one prompt was graded in all of them."""
    return not np.logical_or.reduce([np.isnan(arm.shares).all(axis=0) for arm in arms]).all()


def comparison_of(one: Found, p_adjusted: float) -> Comparison:
    """A comparison with its corrected p-value."""
    difference = one.difference
    return Comparison(
        purpose=one.purpose,
        family=FAMILIES[one.purpose],
        student=one.first.student,
        benchmark=one.benchmark,
        first=one.first.label,
        second=one.second.label,
        difference=difference.estimate,
        interval=difference.interval,
        standard_error=difference.standard_error,
        degrees=difference.degrees if np.isfinite(difference.degrees) else None,
        p_value=difference.p_value,
        p_adjusted=p_adjusted,
        test=difference.test,
        num_prompts=difference.num_prompts,
        is_shown=p_adjusted < ALPHA and not difference.interval.covers(0.0),
    )


def detectable(comparisons: Sequence[Comparison]) -> list[Detectable]:
    """Per benchmark (and for their mean), from the median standard error of its comparisons, seeds included."""
    found = []
    for benchmark in dict.fromkeys(one.benchmark for one in comparisons):
        mine = [one for one in comparisons if one.benchmark == benchmark]
        num_prompts = min(one.num_prompts for one in mine)
        typical = sorted(mine, key=lambda one: one.standard_error)[len(mine) // 2]
        difference = minimum_detectable(*least_error(replace(typical, num_prompts=num_prompts)))
        found.append(Detectable(benchmark, num_prompts, difference))
    return found


def least_error(one: Comparison) -> Error:
    """Its error, but at least that of one discordant prompt in each direction: arms that agree everywhere prove no
    exactness."""
    degrees = one.degrees if one.degrees is not None else float("inf")
    return Error(max(one.standard_error, float(np.sqrt(2)) / one.num_prompts), degrees)


def reversed_comparison(one: Comparison) -> Comparison:
    """The same comparison, second minus first."""
    interval = Interval(-one.interval.high, -one.interval.low)
    return replace(one, first=one.second, second=one.first, difference=-one.difference, interval=interval)


def both_ways(comparisons: Sequence[Comparison]) -> dict[tuple[str, str, str], Comparison]:
    """(first, second, benchmark) -> comparison, each also as second minus first."""
    made = {(one.first, one.second, one.benchmark): one for one in comparisons}
    turned = {(second, first, where): reversed_comparison(one) for (first, second, where), one in made.items()}
    return made | turned
