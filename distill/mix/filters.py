"""Which correct traces may be mixed, as a reason code per trace: pure functions over columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distill.config.mix import FiltersConfig
from distill.mix.seeded_order import contains, keys_of, order_hash
from distill.mix.trace_index import TraceIndex

USABLE = 0
REASONS = (
    "usable",
    "not correct",
    "of no mixed pool",
    "cut by the token limit",
    "no_completion",
    "end_of_turn_inside",
    "too long for a student",
    "fewer than filters.min_tokens",
    "more than filters.max_tokens",
    "repetition",
    "foreign script",
    "duplicate",
)
"""What the codes mean; where several hold, the first in this order counts. The rows without texts come first."""
CODES = {reason: code for code, reason in enumerate(REASONS)}


@dataclass(frozen=True, eq=False)
class Features:
    """Columns of `TraceFeatures`, sorted by trace."""

    trace_keys: NDArray[np.uint64]
    tokens: NDArray[np.int32]
    most_tokens: NDArray[np.int32]
    row_tokens: NDArray[np.int32]
    refusals: NDArray[np.int8]
    """Code of the refusal's reason, USABLE where there is none."""
    repetition: NDArray[np.float32]
    foreign: NDArray[np.float32]
    digests: NDArray[np.uint64]

    def places(self, trace_keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where the traces are in these columns; all of them must be there."""
        assert contains(self.trace_keys, trace_keys).all()
        return np.searchsorted(self.trace_keys, trace_keys)


def features_columns(table: pa.Table) -> Features:
    """`TraceFeatures` rows as columns, each trace once."""
    keys, first = np.unique(keys_of(table.column("trace_id"), "trace id"), return_index=True)
    column = {name: table.column(name).to_numpy()[first] for name in ("tokens", "most_tokens", "row_tokens")}
    refusals = table.column("refusal").combine_chunks().dictionary_encode()
    codes = np.array([CODES[name] if name else USABLE for name in refusals.dictionary.to_pylist()] or [0], np.int8)
    return Features(
        trace_keys=keys,
        tokens=column["tokens"].astype(np.int32),
        most_tokens=column["most_tokens"].astype(np.int32),
        row_tokens=column["row_tokens"].astype(np.int32),
        refusals=codes[refusals.indices.to_numpy()][first],
        repetition=table.column("repetition").to_numpy()[first].astype(np.float32),
        foreign=table.column("foreign").to_numpy()[first].astype(np.float32),
        digests=keys_of(table.column("digest"), "digest")[first],
    )


def reasons_without_text(index: TraceIndex, pools: tuple[str, ...]) -> NDArray[np.int8]:
    """A reason code per trace, from what the index alone tells."""
    is_ours = index.pool_codes(pools) >= 0
    states = [~is_ours, ~index.is_correct(), index.is_cut]
    names = ("of no mixed pool", "not correct", "cut by the token limit")
    codes: list[Any] = [np.int8(CODES[name]) for name in names]
    return np.select(states, codes, default=np.int8(USABLE))


def reasons_with_text(
    index: TraceIndex,
    reasons: NDArray[np.int8],
    features: Features,
    filters: FiltersConfig,
    *,
    max_length: int,
    seed: int,
) -> NDArray[np.int8]:
    """The reason codes with those that texts give; every trace that was usable so far has features."""
    rows = np.flatnonzero(reasons == USABLE)
    at = features.places(index.trace_keys[rows])
    most = filters.max_tokens or max_length
    tests = {
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
    """Whether a row is, of those that say the same for one prompt and pool, the first in the candidates' order."""
    ranks = order_hash(index.trace_keys[rows], "candidate", seed)
    keys = (digests, index.pools[rows], index.prompt_keys[rows])
    by_group = np.lexsort((ranks, *keys))
    is_first = np.ones(len(rows), dtype=np.bool_)
    same = [key[by_group][1:] == key[by_group][:-1] for key in keys]
    is_first[by_group[1:]] = ~np.logical_and.reduce(same)
    return is_first


def filter_counts(index: TraceIndex, reasons: NDArray[np.int8], pools: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Pool -> reason -> traces, of the correct ones; they add up to the pool's correct traces."""
    counts: dict[str, dict[str, int]] = {}
    codes, is_correct = index.pool_codes(pools), index.is_correct()
    for place, pool in enumerate(pools):
        found = np.bincount(reasons[(codes == place) & is_correct], minlength=len(REASONS))
        counts[pool] = {reason: int(count) for reason, count in zip(REASONS, found, strict=True) if count}
    return counts


def too_long_prompts(index: TraceIndex, reasons: NDArray[np.int8]) -> NDArray[np.uint64]:
    """Prompts that have a trace too long for a student."""
    return np.unique(index.prompt_keys[reasons == CODES["too long for a student"]])


def with_student_tokens(index: TraceIndex, reasons: NDArray[np.int8], features: Features) -> NDArray[np.int32]:
    """Lengths as the first student counts them, for the usable traces; the others keep the teacher's count."""
    rows = np.flatnonzero(reasons == USABLE)
    tokens = index.tokens.copy()
    tokens[rows] = features.tokens[features.places(index.trace_keys[rows])]
    return tokens


def summed(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Reason -> traces over all pools."""
    total: dict[str, int] = {}
    for by_reason in counts.values():
        for reason, count in by_reason.items():
            total[reason] = total.get(reason, 0) + count
    return total
