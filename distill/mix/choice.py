"""What a policy decides, and the seeded order of prompts that most policies cut into pools."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.config.shares import largest_remainder
from distill.core.errors import StageError
from distill.mix.candidates import Candidates
from distill.mix.seeded_order import order_hash


class Choice(NamedTuple):
    """The rows of an arm, sorted by prompt: the entries that it takes from the candidates' table."""

    prompts: NDArray[np.int64]
    """Index of the row's prompt in `Candidates.prompt_keys`."""
    pools: NDArray[np.int64]
    """Index of the row's pool in `Candidates.pools`."""
    phases: NDArray[np.int64]
    """Rows of phase 0 are taught first; all 0 where the order does not matter."""
    ranks: NDArray[np.int64]
    """The prompt's rank in the order that was cut: why it takes this pool. 0 where nothing was cut."""
    paired: NDArray[np.int64] | None = None
    """Of pairs, chosen and rejected in turn: the rows of the index. None: those of the candidates' table."""

    def rows(self, candidates: Candidates) -> NDArray[np.int64]:
        """The rows of the index that are taken."""
        return candidates.rows[self.prompts, self.pools] if self.paired is None else self.paired

    def sources(self, candidates: Candidates) -> NDArray[np.int64]:
        """The pools that wrote them: where a prompt was routed, another than the one that it was taken from."""
        if self.paired is not None:
            return self.pools
        return candidates.sources[self.prompts, self.pools].astype(np.int64)

    @property
    def sides(self) -> NDArray[np.int64]:
        """Index in `SIDES` of each row."""
        return np.zeros_like(self.prompts) if self.paired is None else 1 + np.arange(len(self.prompts)) % 2


SIDES = ("", "chosen", "rejected")


def unordered(prompts: NDArray[np.int64], pools: NDArray[np.int64]) -> Choice:
    """A choice that depends on no order of the prompts."""
    return Choice(prompts, pools, np.zeros_like(prompts), np.zeros_like(prompts))


def prompt_order(candidates: Candidates, seed: int, stratify: Sequence[str] = ()) -> NDArray[np.int64]:
    """All prompts in the seeded order that weights cut; [P].

    With strata (`level`, `subject`), the r-th of a stratum's n prompts is placed at (r + 1/2) / n of the order. A cut
    then takes its share of every stratum (Webster's method), and a larger share includes all prompts of a smaller one.
    """
    ranks = order_hash(candidates.prompt_keys, "assign", seed)
    if not stratify:
        return np.argsort(ranks)
    strata = _strata(candidates, stratify)
    by_stratum = np.lexsort((ranks, strata))
    sizes = np.bincount(strata)
    starts = np.cumsum(sizes) - sizes
    position = np.empty(len(ranks), dtype=np.float64)
    sorted_strata = strata[by_stratum]
    rank_inside = np.arange(len(ranks)) - starts[sorted_strata]
    position[by_stratum] = (rank_inside + 0.5) / sizes[sorted_strata]
    order: NDArray[np.int64] = np.lexsort((ranks, position))
    return order


def _strata(candidates: Candidates, stratify: Sequence[str]) -> NDArray[np.int64]:
    strata = np.zeros(len(candidates), dtype=np.int64)
    for name in stratify:
        labels = candidates.labels[name]
        strata = strata * len(labels.names) + labels.codes
    return np.unique(strata, return_inverse=True)[1]


def cut_order(order: NDArray[np.int64], counts: Mapping[str, int], pools: Sequence[str]) -> Choice:
    """One trace per prompt: cuts the order into consecutive runs, one per pool of `counts`, of those lengths."""
    codes = np.array([pools.index(pool) for pool in counts], dtype=np.int64)
    chosen, ranks = np.empty(len(order), dtype=np.int64), np.empty(len(order), dtype=np.int64)
    chosen[order] = np.repeat(codes, list(counts.values()))
    ranks[order] = np.arange(len(order))
    return Choice(np.arange(len(order)), chosen, np.zeros_like(ranks), ranks)


def exact_counts(name: str, weights: Mapping[str, float], candidates: Candidates) -> dict[str, int]:
    """Prompts per pool by largest remainder, pools in the order of `weights`.

    Raises:
        StageError: a pool with a positive weight would get no prompt.
    """
    counts = largest_remainder(weights, len(candidates))
    for pool, weight in weights.items():
        if weight > 0 and not counts[pool]:
            raise StageError(
                f"mix: mixes[{name}] asks for {weight:g} of the rows from {pool}, but that rounds to no row with"
                f" {len(candidates)} prompts\n  -> use at least {_enough_prompts(weights)} prompts or a"
                f" larger weight, or leave {pool} out"
            )
    return counts


def _enough_prompts(weights: Mapping[str, float]) -> int:
    """From this number of prompts on every positive weight has a row.

    Of k pools one without a whole row is passed over only where the rows that are left, as many as all remainders make
    up, go to pools with remainders at least as large as its own: to k - 1 of them at most, so that its own is at most
    (k - 1) / k.
    """
    positive = [Fraction(str(weight)) for weight in weights.values() if weight > 0]
    return math.floor(Fraction(len(positive) - 1, len(positive)) / min(positive)) + 1
