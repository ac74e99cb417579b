"""Where each trace's text lies and what became of it in the mix, kept for the audit: `mix/traces.parquet`.

Sorted by trace, in row groups with statistics: one trace of ten million is found by reading one group.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.core.run_dir import RunDir
from distill.mix.candidates import Candidates
from distill.mix.filters import REASONS, USABLE
from distill.mix.seeded_order import contains
from distill.mix.trace_index import TraceIndex

PATH = ("mix", "traces.parquet")
GROUP_ROWS = 1 << 16
STANDS = "stands for its pool"
STANDS_BACK = "another sample stands for its pool"
NOT_COMMON = "its prompt is not common to all pools"
FATES = (*REASONS[1:], STANDS, STANDS_BACK, NOT_COMMON)
SCHEMA = pa.schema([("trace_key", pa.uint64()), ("fate", pa.string()), ("shard", pa.string())])


class Whereabouts:
    """Collects which shard of `generate/` each trace was seen in."""

    def __init__(self) -> None:
        self.shards: dict[str, int] = {}
        self.parts: list[tuple[NDArray[np.uint64], int]] = []

    def add(self, shard: str, keys: NDArray[np.uint64]) -> None:
        """Traces that were seen in a shard."""
        self.parts.append((keys, self.shards.setdefault(shard, len(self.shards))))

    def write(self, run_dir: RunDir, index: TraceIndex, reasons: NDArray[np.int8], candidates: Candidates) -> None:
        """Keep shard and fate of every trace of the index."""
        order = np.argsort(index.trace_keys)
        keys, fates = index.trace_keys[order], trace_fates(index, reasons, candidates)[order]
        places = np.full(len(keys), len(self.shards), dtype=np.int32)
        for seen, shard in self.parts:
            at = np.searchsorted(keys, seen)
            is_known = keys[np.minimum(at, len(keys) - 1)] == seen
            places[at[is_known]] = shard
        names = pa.array([*self.shards, ""], pa.string())
        with run_dir.table_writer(SCHEMA, *PATH) as writer:
            for start in range(0, len(keys), GROUP_ROWS):
                part = slice(start, start + GROUP_ROWS)
                fate = pa.array(FATES, pa.string()).take(pa.array(fates[part]))
                writer.write_table(pa.table([pa.array(keys[part]), fate, names.take(pa.array(places[part]))], SCHEMA))


def trace_fates(index: TraceIndex, reasons: NDArray[np.int8], candidates: Candidates) -> NDArray[np.int8]:
    """Place in `FATES` of every trace: why it was left out, or that it stands for its pool at a common prompt."""
    is_common = contains(candidates.prompt_keys, index.prompt_keys)
    usable = np.where(is_common, FATES.index(STANDS_BACK), FATES.index(NOT_COMMON))
    fates = np.where(reasons == USABLE, usable, reasons - 1).astype(np.int8)
    fates[candidates.rows.ravel()] = FATES.index(STANDS)
    return fates


def find_traces(run_dir: RunDir, trace_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Trace id -> `fate` and `shard`; only the row groups that may hold the traces are read."""
    found: dict[str, dict[str, str]] = {}
    keys = [int(name, 16) for name in trace_ids]
    for shard in run_dir.shards(*PATH):
        table = pq.read_table(
            shard, filesystem=run_dir.fs, filters=pc.field("trace_key").isin(pa.array(keys, pa.uint64()))
        )
        found |= {f"{row['trace_key']:016x}": row for row in table.to_pylist()}
    return found
