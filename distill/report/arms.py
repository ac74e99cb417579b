"""Arms: a student under one mix, all its training seeds together, and what it scored."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.config.recipe import Recipe
from distill.core.schema import Verdict
from distill.evaluate.read_scores import Scored, outcome_shares
from distill.evaluate.statistics import accuracy, accuracy_interval, macro_interval
from distill.evaluate.variance import Shares, estimate
from distill.report.model_scores import looping
from distill.report.score_data import ArmScore, Comparison, MacroScore


@dataclass(frozen=True)
class Arm:
    """A student under one mix (or untouched, mix empty) on one benchmark: one row of outcomes per training seed."""

    student: str
    mix: str
    benchmark: str
    runs: tuple[Scored, ...]
    prompt_ids: NDArray[np.str_]
    """The columns of `shares`."""
    shares: Shares

    @property
    def label(self) -> str:
        """`student@mix`, or the student's name where it is untouched."""
        return f"{self.student}@{self.mix}" if self.mix else self.student

    @property
    def graded_seeds(self) -> tuple[int | None, ...]:
        """The training seeds of its runs with a graded completion; of others nothing is known."""
        rows = zip(self.runs, self.shares, strict=True)
        return tuple(run.seed for run, outcomes in rows if not np.isnan(outcomes).all())


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
    return Arm(student, mix, benchmark, tuple(runs), prompt_ids, outcome_shares(runs, prompt_ids))


def arm_scores(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> list[ArmScore]:
    """One line per arm and benchmark, with its gain over the untouched student."""
    gains = {(one.first, one.benchmark): one for one in comparisons if one.purpose == "gain"}
    return [dataclasses.replace(arm_score(arm), gain=gains.get((arm.label, arm.benchmark))) for arm in arms]


def arm_score(arm: Arm) -> ArmScore:
    """Accuracy of an arm over all its seeds."""
    tokens = np.concatenate([run.tokens for run in arm.runs])
    truncated = np.concatenate([run.is_truncated for run in arm.runs])
    verdicts = np.concatenate([run.verdicts for run in arm.runs])
    return ArmScore(
        student=arm.student,
        mix=arm.mix,
        label=arm.label,
        benchmark=arm.benchmark,
        accuracy=accuracy(arm.shares),
        interval=accuracy_interval(arm.shares),
        standard_error=estimate([arm.shares]).error,
        num_prompts=int((~np.isnan(arm.shares).all(axis=0)).sum()),
        num_runs=len(arm.graded_seeds),
        errors=int((verdicts == Verdict.ERROR.value).sum()),
        mean_tokens=float(tokens.mean()) if len(tokens) else None,
        p95_tokens=float(np.quantile(tokens, 0.95)) if len(tokens) else None,
        truncated_share=float(truncated.mean()) if len(truncated) else None,
        no_answer_share=float((verdicts == Verdict.NO_ANSWER.value).mean()) if len(verdicts) else None,
        looping_share=sum(map(looping, arm.runs)) / len(tokens) if len(tokens) else None,
        gain=None,
    )


def whole_arms(arms: Sequence[Arm], num_benchmarks: int) -> Iterator[tuple[Arm, ...]]:
    """An arm's entries on all benchmarks, for arms whose every seed has graded answers on all of several benchmarks."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.label, []).append(arm)
    for group in groups.values():
        seeds = {arm.graded_seeds for arm in group}
        if num_benchmarks > 1 and len(group) == num_benchmarks and len(seeds) == 1:
            yield tuple(group)


def macro_scores(arms: Sequence[Arm], num_benchmarks: int) -> list[MacroScore]:
    """The paper's P: unweighted means over the benchmarks, with their standard errors."""
    return [_macro(group) for group in whole_arms(arms, num_benchmarks)]


def _macro(group: Sequence[Arm]) -> MacroScore:
    # Benchmarks are separate sets of problems, but their errors share the training seeds.
    benchmarks = [arm.shares for arm in group]
    found = estimate(benchmarks)
    return MacroScore(
        student=group[0].student,
        mix=group[0].mix,
        label=group[0].label,
        accuracy=found.value,
        standard_error=found.error,
        interval=macro_interval(benchmarks),
        num_benchmarks=len(group),
    )
