"""The table that policies choose from: for each common prompt, the trace selected from each teacher.

It holds only prompts that every pool solved (the construction of arXiv 2502.12143), so all arms of a run teach the same
prompts and differ only in the teacher that each prompt's trace comes from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.core.schema import Verdict
from distill.mix.seeded_order import order_hash
from distill.mix.trace_index import VERDICTS, TraceIndex

NO_TRACE = -1
SLICE_ROWS = 1 << 16
"""Traces processed at once: some 2 MB of columns."""


@dataclass(frozen=True, eq=False)
class Labels:
    """A label per prompt."""

    codes: NDArray[np.int32]
    """Indices into `names`."""
    names: tuple[str, ...]
    """The distinct labels, sorted."""


class Routes(NamedTuple):
    """Which empty places of the table are filled from another pool."""

    target: str
    """The pool whose trace is taken."""
    is_too_long: NDArray[np.bool_]
    """Whether each trace of the index is correct and too long for a student: its pool solved the prompt."""


class Pairs(NamedTuple):
    """A pair of traces for each of P prompts, one chosen over the other."""

    rows: NDArray[np.int64]
    """[P, 2]: rows of the index, chosen and rejected; NO_TRACE where the prompt has no pair."""
    pools: NDArray[np.int64]
    """[P, 2]: who wrote them, an index in `Candidates.pools`; -1 where there is no pair."""

    @property
    def has_pair(self) -> NDArray[np.bool_]:
        """[P]: whether the prompt has one."""
        found: NDArray[np.bool_] = self.rows[:, 0] != NO_TRACE
        return found


@dataclass(frozen=True, eq=False)
class Candidates:
    """A table of P common prompts (sorted by identity) and K pools (sorted by name)."""

    prompt_keys: NDArray[np.uint64]
    """[P]"""
    pools: tuple[str, ...]
    rows: NDArray[np.int64]
    """[P, K]: row of the index with the trace selected from the pool for the prompt."""
    sources: NDArray[np.int16]
    """[P, K]: the pool that wrote the trace; another one than K where the prompt was routed."""
    tokens: NDArray[np.int32]
    """[P, K]: length of the completion, tokens."""
    pass_rates: NDArray[np.float64]
    """[P]: share of correct traces among those of these pools that the verifier could decide."""
    solved: Mapping[str, int]
    """Pool -> prompts with a usable trace, common or not."""
    labels: Mapping[str, Labels]
    """`level` and `subject` of the prompts, where a policy needs them."""
    fits: Mapping[str, NDArray[np.float64]]
    """`STUDENT/SCORE` -> [P, K], where an arm needs it; lower fits better."""
    pairs: Mapping[str, Pairs] = field(default_factory=dict)
    """Arm -> the pairs that it may teach."""

    def __len__(self) -> int:
        return len(self.prompt_keys)

    def take(self, prompts: NDArray[np.int64]) -> "Candidates":
        """The rows of some prompts, in the given order."""
        return replace(
            self,
            prompt_keys=self.prompt_keys[prompts],
            rows=self.rows[prompts],
            sources=self.sources[prompts],
            tokens=self.tokens[prompts],
            pass_rates=self.pass_rates[prompts],
            labels={name: Labels(one.codes[prompts], one.names) for name, one in self.labels.items()},
            fits={name: fit[prompts] for name, fit in self.fits.items()},
            pairs={name: Pairs(one.rows[prompts], one.pools[prompts]) for name, one in self.pairs.items()},
        )

    @property
    def unpaired(self) -> NDArray[np.bool_]:
        """[P]: whether an arm looks for a pair of the prompt, and none has one."""
        without = [~one.has_pair for one in self.pairs.values()]
        return np.logical_and.reduce(without) if without else np.zeros(len(self), dtype=np.bool_)

    def sized(self, num: int | None, seed: int) -> NDArray[np.int64]:
        """The prompts of an arm of `num` prompts (None: all), ascending: the first of a seeded order.

        Those of a smaller number are among those of a larger one.
        """
        if num is None:
            return np.arange(len(self))
        return np.sort(np.argsort(order_hash(self.prompt_keys, "size", seed))[:num])

    def split_held_out(self, num: int | None, seed: int) -> "tuple[Candidates, Candidates]":
        """(taught, held out): the first `num` prompts of a seeded order are held out."""
        is_held = np.zeros(len(self), dtype=np.bool_)
        if num:
            is_held[np.argsort(order_hash(self.prompt_keys, "held out", seed))[:num]] = True
        return self.take(np.flatnonzero(~is_held)), self.take(np.flatnonzero(is_held))


def build_candidates(
    index: TraceIndex,
    is_usable: NDArray[np.bool_],
    pools: Sequence[str],
    seed: int,
    routes: Routes | None = None,
) -> Candidates:
    """The table of the common prompts. Of a pool's usable traces for a prompt, the first in a seeded order is selected.

    Args:
        index: all verified traces.
        is_usable: whether each of them may be taught.
        pools: those that the arms draw from.
        seed: of the order.
        routes: where a pool has no usable trace for a prompt, but one that is too long, that of the target is taken.
    """
    names = tuple(sorted(pools))
    codes = index.pool_codes(names)
    slices = [_slice(index, rows, codes[rows], (is_usable, names, seed, routes)) for rows in _slices(index, codes >= 0)]
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
    """The rows in slices of the prompts' key range, ascending, each small enough for the CPU's cache.

    Processed all at once, each of ten million rows costs three times as much as one of a million: memory is the limit.
    """
    rows = np.flatnonzero(is_ours)
    heads = (index.prompt_keys[rows] >> np.uint64(48)).astype(np.uint16)
    rows = rows[np.argsort(heads, kind="stable")]  # a radix sort: linear time
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
    rules: tuple[NDArray[np.bool_], tuple[str, ...], int, Routes | None],
) -> _Slice:
    """The common prompts of one slice."""
    is_usable, names, seed, routes = rules
    prompts, prompt_of = np.unique(index.prompt_keys[rows], return_inverse=True)
    good = np.flatnonzero(is_usable[rows])
    ranks = order_hash(index.trace_keys[rows[good]], "candidate", seed)
    table = selected(rows[good], prompt_of[good] * len(names) + codes[good], ranks, len(prompts) * len(names))
    table = table.reshape(-1, len(names))
    solved = (table != NO_TRACE).sum(axis=0, keepdims=True)
    sources = np.broadcast_to(np.arange(len(names), dtype=np.int16), table.shape).copy()
    if routes is not None:
        long = np.flatnonzero(routes.is_too_long[rows])
        was_too_long = np.zeros(table.shape, dtype=np.bool_)
        was_too_long[prompt_of[long], codes[long]] = True
        _route(table, sources, was_too_long, names.index(routes.target))
    is_common = (table != NO_TRACE).all(axis=1)
    rates = _pass_rates(index.verdicts[rows], prompt_of, len(prompts))
    return _Slice(prompts[is_common], table[is_common], sources[is_common], rates[is_common], solved)


def selected(
    rows: NDArray[np.int64], slots: NDArray[np.int64], ranks: NDArray[np.uint64], num_slots: int
) -> NDArray[np.int64]:
    """For every slot (a prompt and a pool) the row with the lowest rank; NO_TRACE where there is none."""
    first = np.full(num_slots, np.iinfo(np.uint64).max)
    np.minimum.at(first, slots, ranks)
    is_first = ranks == first[slots]
    table = np.full(num_slots, NO_TRACE, dtype=np.int64)
    table[slots[is_first]] = rows[is_first]
    return table


def _pass_rates(verdicts: NDArray[np.int8], prompt_of: NDArray[np.int64], num_prompts: int) -> NDArray[np.float64]:
    """Share of correct traces among the decided ones, per prompt."""
    decided = np.bincount(prompt_of, weights=verdicts != VERDICTS.index(Verdict.ERROR), minlength=num_prompts)
    correct = np.bincount(prompt_of, weights=verdicts == VERDICTS.index(Verdict.CORRECT), minlength=num_prompts)
    rates: NDArray[np.float64] = correct / np.maximum(decided, 1)
    return rates


def _route(table: NDArray[np.int64], sources: NDArray[np.int16], was_too_long: NDArray[np.bool_], target: int) -> None:
    """Fill the slots that are empty since their pool's traces are too long with the target pool's, in place."""
    is_filled = was_too_long & (table == NO_TRACE)
    table[is_filled] = np.broadcast_to(table[:, [target]], table.shape)[is_filled]
    sources[is_filled] = target
