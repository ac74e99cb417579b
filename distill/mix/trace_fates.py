"""The shard and the fate of every trace, stored for `distill audit`: `mix/traces.parquet`.

Sorted by trace, in row groups with statistics: one trace among ten million is found by reading one group.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.core.run_dir import TRACE_FATES, RunDir
from distill.mix.candidates import Candidates
from distill.mix.filters import REASONS, USABLE
from distill.mix.seeded_order import contains
from distill.mix.trace_index import TraceIndex

GROUP_ROWS = 1 << 16
SELECTED = "selected from its teacher"
OTHER_SAMPLE_SELECTED = "another sample of this teacher was selected"
NOT_COMMON = "its prompt is not common to all pools"
HELD_OUT = "its prompt is held out"
CHOSEN, REJECTED = "chosen side of a pair", "rejected side of a pair"
FATES = (*REASONS[1:], SELECTED, OTHER_SAMPLE_SELECTED, NOT_COMMON, CHOSEN, REJECTED, HELD_OUT)
SCHEMA = pa.schema([("trace_key", pa.uint64()), ("fate", pa.string()), ("shard", pa.string())])


class TraceFates:
    """Collects the shard of `generate/` that each trace is in."""

    def __init__(self) -> None:
        self.shards: dict[str, int] = {}
        self.parts: list[tuple[NDArray[np.uint64], int]] = []

    def add(self, shard: str, keys: NDArray[np.uint64]) -> None:
        """Record that a shard holds some traces."""
        self.parts.append((keys, self.shards.setdefault(shard, len(self.shards))))

    def write(
        self,
        run_dir: RunDir,
        index: TraceIndex,
        reasons: NDArray[np.int8],
        candidates: Sequence[Candidates],
        held_out: Sequence[Candidates],
    ) -> None:
        """Write shard and fate of every trace of the index.

        Args:
            run_dir: of the run.
            index: all verified traces.
            reasons: why each of them is left out, or `USABLE`.
            candidates: the tables that the arms chose from, one per group of arms.
            held_out: the tables of the prompts that are held out, one per group.
        """
        order = np.argsort(index.trace_keys)
        keys, fates = index.trace_keys[order], trace_fates(index, reasons, candidates, held_out)[order]
        shard_of = np.full(len(keys), len(self.shards), dtype=np.int32)
        for part_keys, shard in self.parts:
            rows = np.searchsorted(keys, part_keys)
            is_known = keys[np.minimum(rows, len(keys) - 1)] == part_keys
            shard_of[rows[is_known]] = shard
        names = pa.array([*self.shards, ""], pa.string())
        with run_dir.table_writer(SCHEMA, *TRACE_FATES) as writer:
            for start in range(0, len(keys), GROUP_ROWS):
                part = slice(start, start + GROUP_ROWS)
                fate = pa.array(FATES, pa.string()).take(pa.array(fates[part]))
                writer.write_table(pa.table([pa.array(keys[part]), fate, names.take(pa.array(shard_of[part]))], SCHEMA))


def trace_fates(
    index: TraceIndex,
    reasons: NDArray[np.int8],
    candidates: Sequence[Candidates],
    held_out: Sequence[Candidates],
) -> NDArray[np.int8]:
    """Index in `FATES` of every trace: why it was left out, or that it was selected."""
    usable = np.full(len(index.prompt_keys), FATES.index(NOT_COMMON))
    for tables, fate in ((held_out, HELD_OUT), (candidates, OTHER_SAMPLE_SELECTED)):
        for table in tables:
            is_in = contains(table.prompt_keys, index.prompt_keys) & (index.pool_codes(table.pools) >= 0)
            usable[is_in] = FATES.index(fate)
    fates = np.where(reasons == USABLE, usable, reasons - 1).astype(np.int8)
    for table in candidates:
        for pairs in table.pairs.values():
            for side, fate in enumerate((CHOSEN, REJECTED)):
                fates[pairs.rows[pairs.has_pair, side]] = FATES.index(fate)
    for table in candidates:
        fates[table.rows.ravel()] = FATES.index(SELECTED)
    return fates


def find_traces(run_dir: RunDir, trace_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Trace id -> `fate` and `shard`. Reads only the row groups that may hold the traces."""
    found: dict[str, dict[str, str]] = {}
    keys = [int(name, 16) for name in trace_ids]
    for shard in run_dir.shards(*TRACE_FATES):
        table = pq.read_table(
            shard, filesystem=run_dir.fs, filters=pc.field("trace_key").isin(pa.array(keys, pa.uint64()))
        )
        found |= {f"{row['trace_key']:016x}": row for row in table.to_pylist()}
    return found
