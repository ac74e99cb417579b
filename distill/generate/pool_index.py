"""Index of the traces on disk, per pool and prompt, in compact columns: nothing else grows in the driver's memory.

About 30 bytes a trace and 30 a prompt: a million prompts with two traces each take 90 MB.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill.core.run_dir import RunDir
from distill.core.schema import Verdict, is_teachable
from distill.generate.ask_policy import PoolState

ID_BYTES = 16
"""Length of an identity: a content hash in hex digits."""
COLUMNS = ["trace_id", "prompt_id", "sample_index", "verdict", "finish_reason"]


@dataclass(frozen=True)
class PoolIndex:
    """The traces of one pool, sorted by prompt."""

    prompt_ids: Any
    """[P] bytes: prompts that have a trace, sorted."""
    starts: Any
    """[P + 1] int64: where each prompt's traces begin."""
    samples: Any
    """[T] int32: sample indices."""
    correct: Any
    """[T] bool: correct and not cut by the token limit."""

    def state(self, prompt_id: str) -> PoolState:
        """The pool's state for one prompt."""
        key = prompt_id.encode()
        position = int(np.searchsorted(self.prompt_ids, key))
        if position == len(self.prompt_ids) or self.prompt_ids[position] != key:
            return PoolState()
        part = slice(int(self.starts[position]), int(self.starts[position + 1]))
        return PoolState(frozenset(self.samples[part].tolist()), int(self.correct[part].sum()))


def read_pool_index(run_dir: RunDir, *folder: str) -> PoolIndex:
    """The index of a pool's folder. A trace that is in two shards (a crash can leave that) counts once."""
    columns = [*zip(*map(_columns, run_dir.column_tables(COLUMNS, *folder)), strict=True)]
    if not columns:
        return PoolIndex(np.array([], "S16"), np.zeros(1, np.int64), np.array([], np.int32), np.array([], bool))
    traces, prompts, samples, correct = (np.concatenate(columns.pop(0)) for _ in range(len(columns)))
    order = np.lexsort((traces, prompts))
    order = order[is_new(traces[order])]
    prompts = prompts[order]
    starts = np.flatnonzero(is_new(prompts))
    return PoolIndex(prompts[starts], np.append(starts, len(prompts)), samples[order], correct[order])


def is_new(values: Any) -> Any:
    """Where a sorted array holds another value than before."""
    found = np.ones(len(values), dtype=np.bool_)
    found[1:] = values[1:] != values[:-1]
    return found


def _columns(table: pa.Table) -> tuple[Any, Any, Any, Any]:
    """A table with `COLUMNS` as identities of traces and prompts, sample indices, and which traces may be taught."""
    is_correct = pc.and_(
        pc.equal(table.column("verdict"), Verdict.CORRECT.value), pc.not_equal(table.column("finish_reason"), "length")
    )
    samples = table.column("sample_index").to_numpy().astype(np.int32)
    ids = (identity_bytes(table.column(name)) for name in ("trace_id", "prompt_id"))
    return *ids, samples, is_correct.to_numpy()


def identity_bytes(column: pa.Array | pa.ChunkedArray) -> Any:
    """Identities as an array of bytes, without making a Python string of each."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    padded = pc.utf8_rpad(whole, width=ID_BYTES, padding="\0")  # numpy strips trailing zeros
    fixed = padded.cast(pa.binary()).cast(pa.binary(ID_BYTES))
    return np.frombuffer(fixed.buffers()[1], f"S{ID_BYTES}", count=len(fixed), offset=fixed.offset * ID_BYTES)


def states_of(indices: dict[str, PoolIndex], prompt_id: str) -> dict[str, PoolState]:
    """Pool -> its state for one prompt."""
    return {pool: index.state(prompt_id) for pool, index in indices.items()}


def merge_traces(states: dict[str, PoolState], traces: Iterable[Any]) -> dict[str, PoolState]:
    """States with further traces added, e.g. those that a batch wrote before its engine died."""
    merged = dict(states)
    for trace in traces:
        state = merged.get(trace.pool, PoolState())
        if trace.sample_index not in state.done:
            merged[trace.pool] = state.add(
                trace.sample_index, is_correct=is_teachable(trace.verdict, trace.finish_reason)
            )
    return merged


def encode_states(states: dict[str, PoolState]) -> str:
    """States as text: `POOL:CORRECT:INDEX,INDEX;POOL:...`."""
    parts = [f"{pool}:{state.correct}:{','.join(map(str, sorted(state.done)))}" for pool, state in states.items()]
    return ";".join(parts)


def decode_states(text: str) -> dict[str, PoolState]:
    """The inverse of `encode_states`."""
    states = {}
    for part in filter(None, text.split(";")):
        pool, correct, done = part.split(":")
        states[pool] = PoolState(frozenset(int(index) for index in done.split(",") if index), int(correct))
    return states


def chunk_bounds(num_rows: int, size: int) -> list[tuple[int, int]]:
    """[start, stop) of consecutive chunks."""
    return [(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def read_rows(run_dir: RunDir, path: str, start: int, stop: int, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows [start, stop) of a Parquet file, reading only the row groups that hold them."""
    with run_dir.fs.open(path, "rb") as file:
        parquet, offset, tables = pq.ParquetFile(file), 0, []
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if offset < stop and offset + rows > start:
                table = parquet.read_row_group(group, columns=list(columns))
                tables.append(table.slice(max(0, start - offset), min(stop, offset + rows) - max(start, offset)))
            offset += rows
    return [row for table in tables for row in table.to_pylist()]
