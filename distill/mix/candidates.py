"""The table that policies choose from: for each common prompt, the trace that stands for each pool.

Only prompts that every pool solved are in it (the paper's construction, arXiv 2502.12143), so all arms of a run teach
the same prompts and differ in nothing but where each prompt's trace comes from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.mix.index import VERDICTS, TraceIndex
from distill.mix.order import contains, order_hash
from distill.schema import Verdict

NO_TRACE = -1


@dataclass(frozen=True, eq=False)
class Labels:
    """A label per prompt, as places in the sorted distinct labels."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Candidates:
    """P common prompts, sorted by identity, times K pools, sorted by name."""

    prompt_keys: NDArray[np.uint64]
    """[P]"""
    pools: tuple[str, ...]
    rows: NDArray[np.int64]
    """[P, K]: the row of the index that stands for the pool at the prompt."""
    sources: NDArray[np.int16]
    """[P, K]: the pool that the trace is really of; another one where it was routed."""
    tokens: NDArray[np.int32]
    """[P, K]: length of the completion, tokens."""
    pass_rates: NDArray[np.float64]
    """[P]: correct among the decided traces of these pools."""
    solved: Mapping[str, int]
    """Pool -> prompts with a usable trace, common or not."""
    labels: Mapping[str, Labels]
    """`level` and `subject` of the prompts, where they were read."""

    def __len__(self) -> int:
        return len(self.prompt_keys)


def build_candidates(
    index: TraceIndex,
    is_usable: NDArray[np.bool_],
    pools: Sequence[str],
    seed: int,
    routes: Mapping[str, NDArray[np.uint64]] | None = None,
) -> Candidates:
    """The table of the common prompts; of several usable traces the first in the seeded order stands for a pool.

    `routes`: pool that takes over -> prompts (sorted keys) whose traces in other pools are too long for a student.
    """
    names = tuple(sorted(pools))
    codes = index.pool_codes(names)
    prompts, table = _standing(index, is_usable & (codes >= 0), codes, len(names), seed)
    solved = {name: int((table[:, place] != NO_TRACE).sum()) for place, name in enumerate(names)}
    sources = np.broadcast_to(np.arange(len(names), dtype=np.int16), table.shape).copy()
    for target, keys in (routes or {}).items():
        _route(table, sources, contains(keys, prompts), names.index(target))
    is_common = (table != NO_TRACE).all(axis=1)
    rows = table[is_common]
    return Candidates(
        prompt_keys=prompts[is_common],
        pools=names,
        rows=rows,
        sources=sources[is_common],
        tokens=index.tokens[rows],
        pass_rates=_pass_rates(index, codes >= 0, prompts[is_common]),
        solved=solved,
        labels={},
    )


def _standing(
    index: TraceIndex, is_candidate: NDArray[np.bool_], codes: NDArray[np.int16], num_pools: int, seed: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Sorted prompt keys and [prompts, pools] rows of the index; NO_TRACE where a pool has none."""
    rows = np.flatnonzero(is_candidate)
    prompts, places = np.unique(index.prompt_keys[rows], return_inverse=True)
    cells = places * num_pools + codes[rows]
    ranks = order_hash(index.trace_keys[rows], "candidate", seed)
    first = np.full(len(prompts) * num_pools, np.iinfo(np.uint64).max)
    np.minimum.at(first, cells, ranks)
    is_first = ranks == first[cells]
    table = np.full(len(prompts) * num_pools, NO_TRACE, dtype=np.int64)
    table[cells[is_first]] = rows[is_first]
    return prompts, table.reshape(-1, num_pools)


def _route(table: NDArray[np.int64], sources: NDArray[np.int16], is_routed: NDArray[np.bool_], target: int) -> None:
    """Fill the empty cells of routed prompts from the pool that takes over, in place."""
    is_filled = is_routed[:, None] & (table == NO_TRACE)
    table[is_filled] = np.broadcast_to(table[:, [target]], table.shape)[is_filled]
    sources[is_filled] = target


def _pass_rates(index: TraceIndex, is_ours: NDArray[np.bool_], prompts: NDArray[np.uint64]) -> NDArray[np.float64]:
    is_decided = is_ours & (index.verdicts != VERDICTS.index(Verdict.ERROR))
    rows = np.flatnonzero(is_decided & contains(prompts, index.prompt_keys))
    places = np.searchsorted(prompts, index.prompt_keys[rows])
    decided = np.bincount(places, minlength=len(prompts))
    correct = np.bincount(places, weights=index.is_correct()[rows], minlength=len(prompts))
    rates: NDArray[np.float64] = correct / np.maximum(decided, 1)
    return rates
