"""The table that policies choose from: for each common prompt, the trace that stands for each pool.

Only prompts that every pool solved are in it (the paper's construction, arXiv 2502.12143), so all arms of a run teach
the same prompts and differ in nothing but where each prompt's trace comes from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.core.schema import Verdict
from distill.mix.seeded_order import contains, order_hash
from distill.mix.trace_index import VERDICTS, TraceIndex

NO_TRACE = -1
SLICE_ROWS = 1 << 16
"""Traces worked on at once: some 2 MB of columns."""


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
    fits: Mapping[str, NDArray[np.float64]]
    """`STUDENT/SCORE` -> [P, K], where an arm asks for it; lower fits better."""

    def __len__(self) -> int:
        return len(self.prompt_keys)

    def part(self, places: NDArray[np.int64]) -> "Candidates":
        """The table of some of the prompts, in their order."""
        return replace(
            self,
            prompt_keys=self.prompt_keys[places],
            rows=self.rows[places],
            sources=self.sources[places],
            tokens=self.tokens[places],
            pass_rates=self.pass_rates[places],
            labels={name: Labels(one.codes[places], one.names) for name, one in self.labels.items()},
            fits={name: fit[places] for name, fit in self.fits.items()},
        )

    def without(self, num: int | None, seed: int) -> "tuple[Candidates, Candidates]":
        """All prompts but the first `num` in a seeded order, and those."""
        is_held = np.zeros(len(self), dtype=np.bool_)
        if num:
            is_held[np.argsort(order_hash(self.prompt_keys, "held out", seed))[:num]] = True
        return self.part(np.flatnonzero(~is_held)), self.part(np.flatnonzero(is_held))


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
    slices = [
        _slice(index, rows, codes[rows], (is_usable, names, seed, routes or {})) for rows in _slices(index, codes >= 0)
    ]
    prompt_keys, rows, sources, pass_rates, solved = (np.concatenate(column) for column in zip(*slices, strict=True))
    return Candidates(
        prompt_keys=prompt_keys,
        pools=names,
        rows=rows,
        sources=sources,
        tokens=index.tokens[rows],
        pass_rates=pass_rates,
        solved=dict(zip(names, solved.sum(axis=0).tolist(), strict=True)),
        labels={},
        fits={},
    )


def _slices(index: TraceIndex, is_ours: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """The rows in slices of the prompts' key range, ascending, each small enough for the processor's cache.

    Worked on all at once, ten million rows cost three times as much each as a million do: every step waits for memory.
    """
    rows = np.flatnonzero(is_ours)
    heads = (index.prompt_keys[rows] >> np.uint64(48)).astype(np.uint16)
    rows = rows[np.argsort(heads, kind="stable")]  # a radix sort: linear
    ends = np.cumsum(np.bincount(heads, minlength=1 << 16))
    cuts = np.unique(ends[np.searchsorted(ends, np.arange(SLICE_ROWS, len(rows), SLICE_ROWS))])
    yield from np.split(rows, cuts)


class _Slice(NamedTuple):
    prompt_keys: NDArray[np.uint64]
    rows: NDArray[np.int64]
    sources: NDArray[np.int16]
    pass_rates: NDArray[np.float64]
    solved: NDArray[np.int64]
    """[1, K]"""


def _slice(
    index: TraceIndex,
    rows: NDArray[np.int64],
    codes: NDArray[np.int16],
    rules: tuple[NDArray[np.bool_], tuple[str, ...], int, Mapping[str, NDArray[np.uint64]]],
) -> _Slice:
    """The common prompts among all rows of some prompts."""
    is_usable, names, seed, routes = rules
    prompts, places = np.unique(index.prompt_keys[rows], return_inverse=True)
    good = np.flatnonzero(is_usable[rows])
    ranks = order_hash(index.trace_keys[rows[good]], "candidate", seed)
    table = _standing(rows[good], places[good] * len(names) + codes[good], ranks, len(prompts) * len(names))
    table = table.reshape(-1, len(names))
    solved = (table != NO_TRACE).sum(axis=0, keepdims=True)
    sources = np.broadcast_to(np.arange(len(names), dtype=np.int16), table.shape).copy()
    for target, keys in routes.items():
        _route(table, sources, contains(keys, prompts), names.index(target))
    is_common = (table != NO_TRACE).all(axis=1)
    rates = _pass_rates(index.verdicts[rows], places, len(prompts))
    return _Slice(prompts[is_common], table[is_common], sources[is_common], rates[is_common], solved)


def _standing(
    rows: NDArray[np.int64], cells: NDArray[np.int64], ranks: NDArray[np.uint64], num_cells: int
) -> NDArray[np.int64]:
    """For every cell the row of the first rank; NO_TRACE where there is none."""
    first = np.full(num_cells, np.iinfo(np.uint64).max)
    np.minimum.at(first, cells, ranks)
    is_first = ranks == first[cells]
    table = np.full(num_cells, NO_TRACE, dtype=np.int64)
    table[cells[is_first]] = rows[is_first]
    return table


def _pass_rates(verdicts: NDArray[np.int8], places: NDArray[np.int64], num_prompts: int) -> NDArray[np.float64]:
    """Correct among the decided traces of each prompt."""
    decided = np.bincount(places, weights=verdicts != VERDICTS.index(Verdict.ERROR), minlength=num_prompts)
    correct = np.bincount(places, weights=verdicts == VERDICTS.index(Verdict.CORRECT), minlength=num_prompts)
    rates: NDArray[np.float64] = correct / np.maximum(decided, 1)
    return rates


def _route(table: NDArray[np.int64], sources: NDArray[np.int16], is_routed: NDArray[np.bool_], target: int) -> None:
    """Fill the empty cells of routed prompts from the pool that takes over, in place."""
    is_filled = is_routed[:, None] & (table == NO_TRACE)
    table[is_filled] = np.broadcast_to(table[:, [target]], table.shape)[is_filled]
    sources[is_filled] = target
