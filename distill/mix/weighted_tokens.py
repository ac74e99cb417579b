"""`weighted_tokens`: one trace per prompt; a pool's weight is its share of the tokens that the student learns from.

At one total T, the seeded order is cut where each pool has reached its weight of T; the last pool takes what is left.
What is left shrinks as T grows, so bisection finds the T at which the last pool's share is right too. Every share then
is met to within one trace at each cut. With two pools the prompts of a smaller weight are among those of a larger one.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from distill.config_mix import WeightedTokensMix
from distill.errors import StageError
from distill.mix.candidates import Candidates
from distill.mix.choice import Choice, cut, seeded_order

BISECTIONS = 64


def choose_weighted_tokens(mix: WeightedTokensMix, candidates: Candidates, seed: int) -> Choice:
    """Counts whose token shares are nearest to the weights.

    Raises:
        StageError: a pool with weight would give no row.
    """
    weights = dict(sorted(mix.weights.items()))
    order = seeded_order(candidates, seed, mix.stratify)
    sums = {pool: _sums(candidates, order, pool) for pool in weights}
    counts = token_counts(weights, sums)
    empty = [pool for pool, weight in weights.items() if weight > 0 and not counts[pool]]
    if empty:
        raise StageError(
            f"mix: mixes[{mix.name}] asks {weights[empty[0]]:g} of the tokens from {empty[0]}, which of"
            f" {len(candidates)} common prompts is no row -> more common prompts or a larger weight"
        )
    return cut(order, counts, candidates.pools)


def _sums(candidates: Candidates, order: NDArray[np.int64], pool: str) -> NDArray[np.float64]:
    """[P + 1]: tokens of the pool's traces for the first 0, 1, ... P prompts of the order."""
    tokens = candidates.tokens[order, candidates.pools.index(pool)]
    return np.concatenate([[0.0], np.cumsum(tokens, dtype=np.float64)])


def token_counts(weights: Mapping[str, float], sums: Mapping[str, NDArray[np.float64]]) -> dict[str, int]:
    """Prompts per pool, in the order of `weights`; they add up to all prompts."""
    prompts = np.arange(len(next(iter(sums.values()))), dtype=np.float64)
    last = list(weights)[-1]
    low, high = 0.0, float(max(pool_sums[-1] for pool_sums in sums.values())) * 2
    for _ in range(BISECTIONS):
        total = (low + high) / 2
        start = _stops(weights, sums, prompts, total)[-2]
        left = sums[last][-1] - np.interp(start, prompts, sums[last])
        low, high = (total, high) if left > weights[last] * total else (low, total)
    stops = np.rint(_stops(weights, sums, prompts, (low + high) / 2)).astype(np.int64)
    return dict(zip(weights, np.diff(stops).tolist(), strict=True))


def _stops(
    weights: Mapping[str, float],
    sums: Mapping[str, NDArray[np.float64]],
    prompts: NDArray[np.float64],
    total: float,
) -> list[float]:
    """0, then where each pool's run ends, in fractions of a prompt; the last one ends with the prompts.

    Rounded only when all are found, so that a larger weight never gives an earlier end.
    """
    stops = [0.0]
    for pool, weight in list(weights.items())[:-1]:
        wanted = np.interp(stops[-1], prompts, sums[pool]) + weight * total
        stops.append(max(stops[-1], float(np.interp(wanted, sums[pool], prompts))))
    return [*stops, prompts[-1]]
