"""Decides which traces may be taught, as a reason code per trace. Pure functions over columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distill.config.mix import FiltersConfig
from distill.generate.edits import CUT
from distill.generate.traces import last_of_each
from distill.mix.seeded_order import contains, keys_of, order_hash
from distill.mix.trace_index import TraceIndex
from distill.models.thinking import THINKING_CLOSED
from distill.verify.edit_drops import DROPS

USABLE = 0
REASONS = (
    "usable",
    "not correct",
    "of no mixed pool",
    *DROPS[1:],
    "no_completion",
    "end_of_turn_inside",
    THINKING_CLOSED,
    "too long for a student",
    "fewer than filters.min_tokens",
    "more than filters.max_tokens",
    "repetition",
    "foreign script",
    "duplicate",
)
"""Meaning of the codes. Where several apply, the first counts; those that need no text come first."""
CODES = {reason: code for code, reason in enumerate(REASONS)}


@dataclass(frozen=True, eq=False)
class Features:
    """Columns of `TraceFeatures`, sorted by trace."""

    trace_keys: NDArray[np.uint64]
    tokens: NDArray[np.int32]
    most_tokens: NDArray[np.int32]
    row_tokens: NDArray[np.int32]
    refusals: NDArray[np.int8]
    """Code of the reason why rendering rejects the trace; USABLE where it does not."""
    repetition: NDArray[np.float32]
    foreign: NDArray[np.float32]
    digests: NDArray[np.uint64]
    holds_reasoning: NDArray[np.bool_]

    def rows(self, trace_keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of the traces in these columns; all of them must be there."""
        assert contains(self.trace_keys, trace_keys).all()
        return np.searchsorted(self.trace_keys, trace_keys)


def features_columns(table: pa.Table) -> Features:
    """A table of `TraceFeatures` as columns, each trace once, as it was read last."""
    keys = keys_of(table.column("trace_id"), "trace id")
    last = last_of_each(keys)
    column = {name: table.column(name).to_numpy()[last] for name in ("tokens", "most_tokens", "row_tokens")}
    refusals = table.column("refusal").combine_chunks().dictionary_encode()
    codes = np.array([CODES[name] if name else USABLE for name in refusals.dictionary.to_pylist()] or [0], np.int8)
    return Features(
        trace_keys=keys[last],
        tokens=column["tokens"].astype(np.int32),
        most_tokens=column["most_tokens"].astype(np.int32),
        row_tokens=column["row_tokens"].astype(np.int32),
        refusals=codes[refusals.indices.to_numpy()][last],
        repetition=table.column("repetition").to_numpy()[last].astype(np.float32),
        foreign=table.column("foreign").to_numpy()[last].astype(np.float32),
        digests=keys_of(table.column("digest"), "digest")[last],
        holds_reasoning=table.column("holds_reasoning").to_numpy()[last],
    )


def reasons_without_text(
    index: TraceIndex, pools: tuple[str, ...], is_wanted: NDArray[np.bool_] | None = None
) -> NDArray[np.int8]:
    """A reason code per trace, from the index alone.

    `is_wanted`: the traces in question, absent the correct ones; all others are "not correct".
    """
    is_ours = index.pool_codes(pools) >= 0
    is_wanted = index.is_correct() if is_wanted is None else is_wanted
    dropped = [index.drops == code for code in range(1, len(DROPS))]
    states = [~is_ours, ~is_wanted, index.is_cut, *dropped]
    names = ("of no mixed pool", "not correct", CUT, *DROPS[1:])
    codes: list[Any] = [np.int8(CODES[name]) for name in names]
    return np.select(states, codes, default=np.int8(USABLE))


def reasons_with_text(
    index: TraceIndex,
    reasons: NDArray[np.int8],
    features: Features,
    filters: FiltersConfig,
    *,
    max_length: int,
    closed: frozenset[str] = frozenset(),
    seed: int,
) -> NDArray[np.int8]:
    """Adds the reasons that depend on texts. Every trace that is usable so far must have features.

    Args:
        index: all verified traces.
        reasons: of `reasons_without_text`.
        features: of the traces that are usable so far.
        filters: of the recipe.
        max_length: of a training row, tokens.
        closed: styles that an arm asks for by a prompt which has closed the reasoning.
        seed: decides which of several duplicates is kept.
    """
    rows = np.flatnonzero(reasons == USABLE)
    at = features.rows(index.trace_keys[rows])
    most = filters.max_tokens or max_length
    in_closed = tuple(pool for pool in index.pool_names if index.styles.get(pool) in closed)
    tests = {
        THINKING_CLOSED: features.holds_reasoning[at] & (index.pool_codes(in_closed)[rows] >= 0),
        "too long for a student": features.row_tokens[at] > max_length,
        "fewer than filters.min_tokens": features.most_tokens[at] < filters.min_tokens,
        "more than filters.max_tokens": features.most_tokens[at] > most,
        "repetition": features.repetition[at] > filters.max_repetition,
        "foreign script": features.foreign[at] > filters.max_foreign,
    }
    refusals = features.refusals[at]
    codes: list[Any] = [refusals, *(np.int8(CODES[name]) for name in tests)]
    found = np.select([refusals != USABLE, *tests.values()], codes, default=np.int8(USABLE))
    if not filters.keep_duplicates:
        kept = np.flatnonzero(found == USABLE)
        is_first = first_of_equals(index, rows[kept], features.digests[at][kept], seed)
        found[kept[~is_first]] = CODES["duplicate"]
    result = reasons.copy()
    result[rows] = found
    return result


def first_of_equals(
    index: TraceIndex, rows: NDArray[np.int64], digests: NDArray[np.uint64], seed: int
) -> NDArray[np.bool_]:
    """Whether a row is the first, in the candidates' order, of those with the same text for its prompt and pool."""
    ranks = order_hash(index.trace_keys[rows], "candidate", seed)
    keys = (digests, index.pools[rows], index.prompt_keys[rows])
    by_group = np.lexsort((ranks, *keys))
    is_first = np.ones(len(rows), dtype=np.bool_)
    same = [key[by_group][1:] == key[by_group][:-1] for key in keys]
    is_first[by_group[1:]] = ~np.logical_and.reduce(same)
    return is_first


def filter_counts(
    index: TraceIndex, reasons: NDArray[np.int8], pools: tuple[str, ...], is_wanted: NDArray[np.bool_] | None = None
) -> dict[str, dict[str, int]]:
    """Pool -> reason -> traces in question, absent the correct ones; the counts add up to those of the pool."""
    counts: dict[str, dict[str, int]] = {}
    codes, is_wanted = index.pool_codes(pools), index.is_correct() if is_wanted is None else is_wanted
    for code, pool in enumerate(pools):
        found = np.bincount(reasons[(codes == code) & is_wanted], minlength=len(REASONS))
        counts[pool] = {reason: int(count) for reason, count in zip(REASONS, found, strict=True) if count}
    return counts


def is_too_long(reasons: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Whether each trace may be taught but for its length: it is too long for a student."""
    found: NDArray[np.bool_] = reasons == CODES["too long for a student"]
    return found


def with_student_tokens(index: TraceIndex, is_used: NDArray[np.bool_], features: Features) -> NDArray[np.int32]:
    """Lengths counted by the first student's tokenizer for traces in use; the others keep the teacher's count."""
    rows = np.flatnonzero(is_used)
    tokens = index.tokens.copy()
    tokens[rows] = features.tokens[features.rows(index.trace_keys[rows])]
    return tokens


def totals(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Reason -> traces, over all pools."""
    total: dict[str, int] = {}
    for by_reason in counts.values():
        for reason, count in by_reason.items():
            total[reason] = total.get(reason, 0) + count
    return total
