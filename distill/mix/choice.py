"""What a policy decides, and the cuts through an order that most of them are made of."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.config.shares import largest_remainder
from distill.core.errors import StageError
from distill.mix.candidates import Candidates
from distill.mix.seeded_order import order_hash


class Choice(NamedTuple):
    """The rows of an arm, in the order of their prompts: a cell of the candidates' table each."""

    prompts: NDArray[np.int64]
    """Place of the prompt among the candidates."""
    pools: NDArray[np.int64]
    """Place of the pool among the candidates' pools."""
    phases: NDArray[np.int64]
    """Rows of phase 0 are taught first; all 0 where the order does not matter."""
    places: NDArray[np.int64]
    """The prompt's place in the order that was cut: why it takes this pool. 0 where nothing was cut."""


def uncut(prompts: NDArray[np.int64], pools: NDArray[np.int64]) -> Choice:
    """An arm that takes the same pools for every prompt."""
    return Choice(prompts, pools, np.zeros_like(prompts), np.zeros_like(prompts))


def seeded_order(candidates: Candidates, seed: int, stratify: Sequence[str] = ()) -> NDArray[np.int64]:
    """All prompts in the seeded order that every weight cuts; [P].

    With strata (`level`, `subject`), the r-th of a stratum's n prompts stands at (r + 1/2) / n of the way. A cut then
    takes its share of every stratum (Webster's method), and a later cut never gives back what an earlier one took.
    """
    ranks = order_hash(candidates.prompt_keys, "assign", seed)
    if not stratify:
        return np.argsort(ranks)
    strata = _strata(candidates, stratify)
    by_stratum = np.lexsort((ranks, strata))
    sizes = np.bincount(strata)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(ranks), dtype=np.float64)
    sorted_strata = strata[by_stratum]
    rank_inside = np.arange(len(ranks)) - starts[sorted_strata]
    place[by_stratum] = (rank_inside + 0.5) / sizes[sorted_strata]
    order: NDArray[np.int64] = np.lexsort((ranks, place))
    return order


def _strata(candidates: Candidates, stratify: Sequence[str]) -> NDArray[np.int64]:
    strata = np.zeros(len(candidates), dtype=np.int64)
    for name in stratify:
        labels = candidates.labels[name]
        strata = strata * len(labels.names) + labels.codes
    return np.unique(strata, return_inverse=True)[1]


def cut(order: NDArray[np.int64], counts: Mapping[str, int], pools: Sequence[str]) -> Choice:
    """One trace per prompt: the order cut into runs of the counted lengths, one run per pool of `counts`."""
    codes = np.array([pools.index(pool) for pool in counts], dtype=np.int64)
    chosen, places = np.empty(len(order), dtype=np.int64), np.empty(len(order), dtype=np.int64)
    chosen[order] = np.repeat(codes, list(counts.values()))
    places[order] = np.arange(len(order))
    return Choice(np.arange(len(order)), chosen, np.zeros_like(places), places)


def exact_counts(name: str, weights: Mapping[str, float], candidates: Candidates) -> dict[str, int]:
    """Prompts per pool by largest remainder, pools in the order of `weights`.

    Raises:
        StageError: a pool with weight would give no row, so the arm would not be what its name says.
    """
    counts = largest_remainder(weights, len(candidates))
    refuse_empty(name, weights, counts, len(candidates))
    return counts


def refuse_empty(name: str, weights: Mapping[str, float], counts: Mapping[str, int], num_common: int) -> None:
    """A pool with weight and no row.

    Raises:
        StageError: names the pool, and how many common prompts it takes.
    """
    for pool, weight in weights.items():
        if weight > 0 and not counts[pool]:
            raise StageError(
                f"mix: mixes[{name}] asks {weight:g} of {pool}, which of {num_common} common prompts is no row\n"
                f"  -> at least {_needed(weight)} common prompts, a larger weight, or leave {pool} out"
            )


def _needed(weight: float) -> int:
    return int(np.ceil(0.5 / weight))
