"""Estimates whose error has two sources: the sample of problems and the sample of training seeds.

Every run of an arm answers the same problems, so seeds and problems are crossed random effects, as readers and cases
are in diagnostic studies ("multi-reader multi-case"). For one arm of S runs on P problems with mean squares for runs,
problems and the rest,

    variance of the mean = (MS_run + max(MS_problem - MS_rest, 0)) / (S P)

and its degrees of freedom are Satterthwaite's over both terms, after Hillis (Statistics in Medicine 26:596, 2007, and
33:330, 2014, for several designs).
Two arms share the problems (their differences are the observations) but not the seeds: each brings its own run term. So
do the four arms of a difference between two differences.

Why not resample the seeds: a bootstrap over three of them has two thirds of their variance and no value beyond those
seen, and crossed with one over problems it counts the runs' own noise twice, so that it errs both ways. Simulated
(3 against 3 seeds of one recipe, seed effects of 4 points, nothing to find): at the 5 % level the crossed bootstrap
called 1.7 % different with 100 problems and 8.1 % with 500 (1,000 repetitions); this method 5.2 % and 4.2 % (2,000).
The interval of one arm of three seeds covered the truth in 93 to 95 % (`tests/unit/evaluate/test_variance.py` repeats
a part).
A mixed model fitted by likelihood has no advantage in a balanced design, where the mean squares are sufficient, and its
Wald tests ignore that few seeds leave few degrees of freedom.

Not covered: a seed effect that differs by problem type, and seeds shared on purpose between arms (treated as
independent, which is the cautious side).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Shares = NDArray[np.float64]
"""[runs, prompts]: share of a prompt's graded completions that are correct, per training seed; NaN = none graded."""


class Estimate(NamedTuple):
    """A mean (or a difference of two), its standard error and the degrees of freedom of that error."""

    value: float
    error: float
    degrees: float


class Term(NamedTuple):
    """A mean square's part of a variance, with its degrees of freedom; 0: nothing is known of it."""

    variance: float
    degrees: int


class Error(NamedTuple):
    """A standard error and its degrees of freedom."""

    error: float
    degrees: float


SIGNS = (1.0, -1.0, -1.0, 1.0)


def estimate(*arms: Sequence[Shares]) -> Estimate:
    """The unweighted mean over benchmarks: of one arm, of the first minus the second, or of how much larger that
    difference is than the third minus the fourth.

    Args:
        arms: one, two or four; each a list of benchmarks, the same for all, with the same runs in each benchmark.
            Columns are the same prompts in all arms; prompts that one of them has no graded completion of are left out.
            They are shares: of one prompt the error is the largest that shares can have. Other quantities need two.
            Runs that were graded on no prompt of a benchmark are left out of all: see `graded_runs`.

    Raises:
        ValueError: a benchmark has no prompt that all arms were graded on.
    """
    benchmarks = [_filled(group) for group in zip(*map(graded_runs, arms), strict=True)]
    weight = 1 / len(benchmarks)
    value = weight * sum(
        sign * float(shares.mean()) for group in benchmarks for sign, shares in zip(SIGNS, group, strict=False)
    )
    terms = [_run_term([group[arm] for group in benchmarks]) for arm in range(len(arms))]
    terms += [Term(weight**2 * variance, degrees) for variance, degrees in map(_prompt_term, benchmarks)]
    if not any(variance for variance, _ in terms):  # runs whose averages happen to agree are as noisy as their answers
        total = weight**2 * sum(_noise(group) / group[0].shape[1] for group in benchmarks)
        return Estimate(value, float(np.sqrt(total)), float(sum(degrees for _, degrees in terms[: len(arms)]) or 1))
    return Estimate(value, *combined(terms))


def graded_runs(benchmarks: Sequence[Shares]) -> list[Shares]:
    """An arm without the runs that have no graded completion on one of its benchmarks, [runs left, prompts] each.

    Of such a run (its requests failed) nothing is known. Filled in, it would agree with the others, and so make the
    error too small and its degrees of freedom too many.
    """
    is_graded = np.logical_and.reduce([~np.isnan(shares).all(axis=1) for shares in benchmarks])
    return [shares[is_graded] for shares in benchmarks]


def combined(terms: Sequence[Term]) -> Error:
    """The error of a sum of independent terms, with Satterthwaite's degrees of freedom."""
    total = sum(variance for variance, _ in terms)
    spent = sum(variance**2 / degrees for variance, degrees in terms if degrees)
    return Error(float(np.sqrt(total)), float(total**2 / spent) if spent else float("inf"))


def _run_term(benchmarks: Sequence[Shares]) -> Term:
    """Variance of the runs' macro averages divided by their number; 0 for a single run, of which nothing is known."""
    by_run = np.mean([shares.mean(axis=1) for shares in benchmarks], axis=0)
    if len(by_run) < 2:
        return Term(0.0, 0)
    return Term(float(by_run.var(ddof=1) / len(by_run)), len(by_run) - 1)


def _prompt_term(group: Sequence[Shares]) -> Term:
    """Variance of the prompts' means (or their differences), less the part that is due to the runs' own noise.

    That noise is in the run term already. For an arm with one run it cannot be separated and stays here.
    """
    num_prompts = group[0].shape[1]
    if num_prompts < 2:
        return Term(largest_variance(len(group)), 1)  # one problem says nothing about others
    by_prompt = np.sum([sign * shares.mean(axis=0) for sign, shares in zip(SIGNS, group, strict=False)], axis=0)
    return Term(max(float(by_prompt.var(ddof=1)) - _noise(group), 0.0) / num_prompts, num_prompts - 1)


def largest_variance(num_arms: int) -> float:
    """The largest variance of a share (one arm), of a difference of two shares, or of the change of one (four arms).

    A quarter of the squared range: half of the problems are at one of its ends, half at the other.
    """
    return (num_arms / 2) ** 2


def _noise(group: Sequence[Shares]) -> float:
    """Variance of a prompt's mean (or difference) between sets of seeds, over the arms with several runs."""
    return sum(_rest(shares) / len(shares) for shares in group if len(shares) > 1 and shares.shape[1] > 1)


def _rest(shares: Shares) -> float:
    """Mean square of the residual: what neither the run nor the prompt explains."""
    num_runs, num_prompts = shares.shape
    explained = shares.mean(axis=0) + shares.mean(axis=1, keepdims=True) - shares.mean()
    return float(((shares - explained) ** 2).sum() / ((num_runs - 1) * (num_prompts - 1)))


def _filled(group: Sequence[Shares]) -> list[Shares]:
    """The prompts that every arm was graded on. A run that lacks one of them is filled in with the prompt's mean plus
    the run's effect: neither source of error grows by it, and completions that cannot be graded are few."""
    common = np.logical_and.reduce([~np.isnan(shares).all(axis=0) for shares in group])
    if not common.any():
        raise ValueError("the models have no graded prompt in common; score them on the same benchmark first")
    return [_additive(shares[:, common]) for shares in group]


def _additive(shares: Shares) -> Shares:
    if not np.isnan(shares).any():
        return shares
    by_prompt = np.nanmean(shares, axis=0)
    of_run = np.nansum(shares - by_prompt, axis=1) / np.maximum((~np.isnan(shares)).sum(axis=1), 1)
    return np.where(np.isnan(shares), np.clip(by_prompt + of_run[:, None], 0.0, 1.0), shares)
