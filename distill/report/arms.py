"""Arms and the planned comparisons between them: which are compared is decided by the recipe, never by the result."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.config import Recipe
from distill.config_mix import MixConfig
from distill.report.numbers import ArmScore, Comparison, Detectable, MacroScore
from distill.report.scores import Scored, outcome_shares
from distill.schema import Style, Verdict
from distill.statistics import (
    ALPHA,
    Difference,
    Shares,
    accuracy,
    accuracy_interval,
    holm,
    minimum_detectable,
    paired_difference,
    standard_error,
)

UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Arm:
    """A student under one mix (or untouched, mix empty) on one benchmark: one row of outcomes per training seed."""

    student: str
    mix: str
    benchmark: str
    runs: tuple[Scored, ...]
    shares: Shares

    @property
    def label(self) -> str:
        """`student@mix`, or the student's name where it is untouched."""
        return f"{self.student}@{self.mix}" if self.mix else self.student


@dataclass(frozen=True)
class Pair:
    """Two arms of one student that the recipe asks to compare; mixes by name, empty for untouched."""

    purpose: str
    first: str
    second: str


def pure_style(mix: MixConfig, styles: Mapping[str, Style]) -> Style | None:
    """The one style of all pools that have weight in the mix; None for a blend of styles."""
    found = {styles[pool] for pool, share in mix.shares.items() if share != 0 and pool in styles}
    return found.pop() if len(found) == 1 else None


def blends(recipe: Recipe) -> list[MixConfig]:
    """Mixes that draw from several pools."""
    return [mix for mix in recipe.mixes if sum(share != 0 for share in mix.shares.values()) > 1]


def planned_pairs(recipe: Recipe) -> list[Pair]:
    """Every mix against untouched, long against short, every blend against each of its pools alone."""
    styles = {teacher.name: teacher.style for teacher in recipe.teachers}
    by_style = {pure_style(mix, styles): mix.name for mix in reversed(recipe.mixes)}
    pairs = [Pair("gain", mix.name, "") for mix in recipe.mixes]
    if Style.LONG in by_style and Style.SHORT in by_style:
        pairs.append(Pair("gap", by_style[Style.LONG], by_style[Style.SHORT]))
    alone = {pool: mix.name for mix in reversed(recipe.mixes) for pool, share in mix.shares.items() if share == 1}
    pairs += [
        Pair("blend", mix.name, alone[pool])
        for mix in blends(recipe)
        for pool, share in mix.shares.items()
        if share != 0 and pool in alone
    ]
    return pairs


def build_arms(recipe: Recipe, scores: Sequence[Scored]) -> list[Arm]:
    """Group the scored models; all arms of a benchmark have the same prompts as columns, in the same order."""
    found = []
    for benchmark in recipe.evaluate.benchmarks:
        of_benchmark = [one for one in scores if one.benchmark == benchmark]
        if not of_benchmark:
            continue
        prompt_ids = np.unique(np.concatenate([one.prompt_ids for one in of_benchmark]))
        keys = dict.fromkeys((one.student, one.mix) for one in of_benchmark)
        found += [_arm(student, mix, benchmark, of_benchmark, prompt_ids) for student, mix in keys]
    return [arm for arm in found if not np.isnan(arm.shares).all()]


def _arm(student: str, mix: str, benchmark: str, scores: Sequence[Scored], prompt_ids: NDArray[np.str_]) -> Arm:
    runs = [one for one in scores if (one.student, one.mix) == (student, mix)]
    return Arm(student, mix, benchmark, tuple(runs), outcome_shares(runs, prompt_ids))


def compare(recipe: Recipe, arms: Sequence[Arm], rng: np.random.Generator) -> list[Comparison]:
    """All planned comparisons that were scored, corrected as one family."""
    by_key = {(arm.student, arm.mix, arm.benchmark): arm for arm in arms}
    pairs = [
        (pair, by_key[student.name, pair.first, benchmark], by_key[student.name, pair.second, benchmark])
        for benchmark in recipe.evaluate.benchmarks
        for student in recipe.students
        for pair in planned_pairs(recipe)
        if {(student.name, pair.first, benchmark), (student.name, pair.second, benchmark)} <= by_key.keys()
    ]
    found = [
        (pair, first, second, paired_difference(first.shares, second.shares, rng))
        for pair, first, second in pairs
        if _share_prompts(first, second)
    ]
    adjusted = holm([difference.p_value for *_, difference in found])
    return [
        _comparison(pair, first, second, difference, p_adjusted)
        for (pair, first, second, difference), p_adjusted in zip(found, adjusted, strict=True)
    ]


def _share_prompts(first: Arm, second: Arm) -> bool:
    return not (np.isnan(first.shares).all(axis=0) | np.isnan(second.shares).all(axis=0)).all()


def _comparison(pair: Pair, first: Arm, second: Arm, difference: Difference, p_adjusted: float) -> Comparison:
    return Comparison(
        purpose=pair.purpose,
        student=first.student,
        benchmark=first.benchmark,
        first=first.label,
        second=second.label,
        difference=difference.estimate,
        interval=difference.interval,
        p_value=difference.p_value,
        p_adjusted=p_adjusted,
        test=difference.test,
        num_prompts=difference.num_prompts,
        spread=difference.spread,
        is_shown=p_adjusted < ALPHA and not difference.interval.covers(0.0),
    )


def arm_scores(arms: Sequence[Arm], comparisons: Sequence[Comparison], rng: np.random.Generator) -> list[ArmScore]:
    """One line per arm and benchmark, with its gain over the untouched student."""
    gains = {(one.first, one.benchmark): one for one in comparisons if one.purpose == "gain"}
    return [dataclasses.replace(arm_score(arm, rng), gain=gains.get((arm.label, arm.benchmark))) for arm in arms]


def arm_score(arm: Arm, rng: np.random.Generator) -> ArmScore:
    """Accuracy of an arm over all its seeds."""
    tokens = np.concatenate([run.tokens for run in arm.runs])
    truncated = np.concatenate([run.is_truncated for run in arm.runs])
    return ArmScore(
        student=arm.student,
        mix=arm.mix,
        label=arm.label,
        benchmark=arm.benchmark,
        accuracy=accuracy(arm.shares),
        interval=accuracy_interval(arm.shares, rng),
        standard_error=standard_error(arm.shares, rng),
        num_prompts=int((~np.isnan(arm.shares).all(axis=0)).sum()),
        num_runs=len(arm.runs),
        errors=sum(int((run.verdicts == Verdict.ERROR.value).sum()) for run in arm.runs),
        mean_tokens=float(tokens.mean()) if len(tokens) else None,
        truncated_share=float(truncated.mean()) if len(truncated) else None,
        gain=None,
    )


def macro_scores(arms: Sequence[ArmScore], num_benchmarks: int) -> list[MacroScore]:
    """Unweighted means over the benchmarks, for arms that were scored on all of them."""
    if num_benchmarks < 2:
        return []
    groups: dict[str, list[ArmScore]] = {}
    for arm in arms:
        groups.setdefault(arm.label, []).append(arm)
    return [_macro(group) for group in groups.values() if len(group) == num_benchmarks]


def _macro(group: Sequence[ArmScore]) -> MacroScore:
    # Benchmarks are separate sets of problems, so their errors are independent, but for the training seed they share.
    error = float(np.sqrt(sum(arm.standard_error**2 for arm in group))) / len(group)
    mean = float(np.mean([arm.accuracy for arm in group]))
    return MacroScore(group[0].student, group[0].mix, group[0].label, mean, error, len(group))


def detectable(comparisons: Sequence[Comparison]) -> list[Detectable]:
    """Per benchmark, from the typical disagreement between its arms."""
    found = []
    for benchmark in dict.fromkeys(one.benchmark for one in comparisons):
        of_benchmark = [one for one in comparisons if one.benchmark == benchmark]
        num_prompts = min(one.num_prompts for one in of_benchmark)
        # Never below one prompt in each direction: two arms that agree everywhere do not make a benchmark exact.
        spread = max(float(np.median([one.spread for one in of_benchmark])), float(np.sqrt(2 / num_prompts)))
        found.append(Detectable(benchmark, num_prompts, minimum_detectable(spread, num_prompts)))
    return found
