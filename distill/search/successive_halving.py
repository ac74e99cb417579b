"""Successive halving over mixes (arXiv 1502.07943): which are tried, which are kept, and how certain that is. Pure.

All runs of a round take the same number of steps, so that its mixes are compared after equal training. The certainty
covers the choice of problems: a bootstrap over the development set counts how often each mix would have been kept.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.evaluate.statistics import NUM_RESAMPLES
from distill.evaluate.variance import Shares


class RoundResult(NamedTuple):
    """Result of a round."""

    accuracies: list[float]
    """Accuracy of each mix, over problems and seeds."""
    kept: list[int]
    """Indices of the mixes that are kept, the best first."""
    kept_share: list[float]
    """Share of the bootstrap resamples in which each mix would have been kept."""


def weight_grid(pools: Sequence[str], grid: int) -> list[dict[str, float]]:
    """All weights in multiples of 1/grid that add up to 1; the first pool's weight ascends."""
    return [{pool: part / grid for pool, part in zip(pools, parts, strict=True)} for parts in _parts(grid, len(pools))]


def _parts(total: int, num: int) -> Iterator[tuple[int, ...]]:
    """Ways to write `total` as an ordered sum of `num` numbers from 0 (stars and bars)."""
    for bars in combinations(range(total + num - 1), num - 1):
        ends = (-1, *bars, total + num - 1)
        yield tuple(ends[part + 1] - ends[part] - 1 for part in range(num))


def num_kept(num_mixes: int, keep: float) -> int:
    """How many mixes of a round are kept: the share `keep`, rounded up, but at least one fewer than there were."""
    return min(num_mixes - 1, math.ceil(num_mixes * keep))


def steps_of_round(number: int, num_steps: int, keep: float) -> int:
    """Optimiser steps of each run in a round. `number`: of the round, from 1."""
    return round(num_steps * (1 / keep) ** (number - 1))


def select_best(scores: Sequence[Shares], num: int, rng: np.random.Generator) -> RoundResult:
    """The best mixes of a round by mean accuracy; of equal ones the earlier.

    Args:
        scores: per mix [seeds, problems], the same problems in the same order. NaN, where the verifier could not
            decide, counts as not solved: a mix gains nothing from answers that cannot be read.
        num: how many are kept.
        rng: for the resamples.
    """
    by_problem = np.array([np.nan_to_num(one, nan=0.0).mean(axis=0) for one in scores])
    means = by_problem.mean(axis=1)
    num_problems = by_problem.shape[1]
    drawn = rng.multinomial(num_problems, np.full(num_problems, 1 / num_problems), size=NUM_RESAMPLES)
    order = _best_first(drawn @ by_problem.T / num_problems)[:, :num]
    counts = np.bincount(order.ravel(), minlength=len(scores))
    kept = _best_first(means[None, :])[0, :num]
    return RoundResult([float(mean) for mean in means], kept.tolist(), (counts / NUM_RESAMPLES).tolist())


def _best_first(means: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices by falling mean in each row. Rounded, so that equal means tie whatever the order of summation."""
    return np.argsort(-means.round(12), axis=1, kind="stable")
