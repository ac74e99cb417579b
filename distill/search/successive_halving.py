"""Successive halving over mixes, as pure functions: which are tried, which go on, and how sure that is.

A round's runs all take the same number of steps, so that its mixes are compared at equal training (as in
arXiv 1502.07943, where each round has the same budget in all). The uncertainty is that of the problems: the development
set is drawn again with replacement, and it is counted how often each mix would have gone on.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.evaluate.statistics import NUM_RESAMPLES
from distill.evaluate.variance import Shares


class Choice(NamedTuple):
    """What a round found."""

    accuracies: list[float]
    """Of each mix, over problems and seeds."""
    kept: list[int]
    """Places of those that go on, the best first."""
    kept_share: list[float]
    """Share of the resamples of the problems in which each would have gone on."""


def weight_grid(pools: Sequence[str], grid: int) -> list[dict[str, float]]:
    """All weights in multiples of 1/grid that add up to 1, the most of the first pool last."""
    return [{pool: part / grid for pool, part in zip(pools, parts, strict=True)} for parts in _parts(grid, len(pools))]


def _parts(total: int, num: int) -> Iterator[tuple[int, ...]]:
    """Ways to write `total` as an ordered sum of `num` numbers from 0 (stars and bars)."""
    for bars in combinations(range(total + num - 1), num - 1):
        ends = (-1, *bars, total + num - 1)
        yield tuple(ends[place + 1] - ends[place] - 1 for place in range(num))


def num_kept(num_mixes: int, keep: float) -> int:
    """How many of a round's mixes go on: their share rounded up, at least one fewer than there were."""
    return min(num_mixes - 1, math.ceil(num_mixes * keep))


def steps_of_round(number: int, num_steps: int, keep: float) -> int:
    """Optimiser steps of each run of a round, counted from 1."""
    return round(num_steps * (1 / keep) ** (number - 1))


def choose(scores: Sequence[Shares], num: int, rng: np.random.Generator) -> Choice:
    """The best mixes of a round by mean accuracy; of equal ones the earlier.

    Args:
        scores: per mix [seeds, problems], the same problems in the same order; NaN where nothing was graded, which
            counts as not solved: a mix gains nothing by answers that cannot be read.
        num: how many go on.
        rng: for the resamples.
    """
    by_problem = np.array([np.nan_to_num(one, nan=0.0).mean(axis=0) for one in scores])
    means = by_problem.mean(axis=1)
    num_problems = by_problem.shape[1]
    drawn = rng.multinomial(num_problems, np.full(num_problems, 1 / num_problems), size=NUM_RESAMPLES)
    order = _best_first(drawn @ by_problem.T / num_problems)[:, :num]
    counts = np.bincount(order.ravel(), minlength=len(scores))
    kept = _best_first(means[None, :])[0, :num]
    return Choice([float(mean) for mean in means], kept.tolist(), (counts / NUM_RESAMPLES).tolist())


def _best_first(means: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places by falling mean in each row; rounded, so that equal means are equal however they were added up."""
    return np.argsort(-means.round(12), axis=1, kind="stable")
