"""Index of the traces on disk, per pool and prompt, in compact columns: nothing else grows in the driver's memory.

About 30 bytes a trace and 30 a prompt: a million prompts with two traces each take 90 MB. A trace that reads, or that
is read, takes 20 more for each.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill.core.run_dir import RunDir, pool_shards
from distill.core.schema import Trace, Verdict
from distill.generate.ask_policy import TAKEN, AskPlan, PoolState, edit_number, source_mark
from distill.generate.edits import is_kept, keep_if_of, may_be_used
from distill.run.pools import Pool

ID_BYTES = 16
"""Length of an identity: a content hash in hex digits."""
COLUMNS = ["trace_id", "prompt_id", "sample_index", "verdict", "finish_reason"]
EDIT_COLUMNS = ["parent", "growth"]


@dataclass(frozen=True)
class Sources:
    """The traces of a pool that another one reads, one entry per trace of its index."""

    traces: Any
    """[T] bytes: identities."""
    marks: Any
    """[T] one byte each: `source_mark`."""
    shards: Any
    """[T] int32: index in `names`."""
    names: tuple[str, ...]
    """The pool's shards, as `FOLDER/FILE`."""

    def taken(self, takes: str) -> Any:
        """Identities of those that a reader takes."""
        return self.traces[np.isin(self.marks, [mark.encode() for mark in TAKEN[takes]])]


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
    """[T] bool: a mix may use it."""
    parents: Any = None
    """[T] bytes: what each is an edit of; None where the pool reads nothing."""
    sources: Sources | None = None
    """What readers may take; None where nobody reads the pool."""

    def state(self, prompt_id: str) -> PoolState:
        """The pool's state for one prompt."""
        part = self._part(prompt_id)
        if part is None:
            return PoolState()
        numbers = self.samples[part].tolist()
        if self.parents is not None:
            parents = self.parents[part].tolist()
            numbers = [edit_number(parent.decode(), number) for parent, number in zip(parents, numbers, strict=True)]
        found = self.sources
        pairs = zip(found.marks[part].tolist(), found.traces[part].tolist(), strict=True) if found else ()
        sources = frozenset((mark + trace).decode() for mark, trace in pairs)
        return PoolState(frozenset(numbers), int(self.correct[part].sum()), sources)

    def shards(self, prompt_ids: Iterable[str]) -> set[str]:
        """The shards that hold traces of some prompts which a reader may take."""
        if self.sources is None:
            return set()
        parts = [part for prompt_id in prompt_ids if (part := self._part(prompt_id)) is not None]
        return {self.sources.names[code] for part in parts for code in self.sources.shards[part].tolist()}

    def _part(self, prompt_id: str) -> slice | None:
        """Where the traces of a prompt are."""
        key = prompt_id.encode()
        position = int(np.searchsorted(self.prompt_ids, key))
        if position == len(self.prompt_ids) or self.prompt_ids[position] != key:
            return None
        return slice(int(self.starts[position]), int(self.starts[position + 1]))


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


def read_indices(run_dir: RunDir, pools: Sequence[Pool], plan: AskPlan) -> dict[str, PoolIndex]:
    """The indices of all pools. Edits of traces that their reader does not take, or that are gone, are in none."""
    by_name, found = {pool.name: pool for pool in pools}, dict[str, PoolIndex]()
    for name in (one.name for one in plan.pools):  # what is read comes first
        pool, reads = by_name[name], plan.plan(name).reads
        if reads or name in plan.readers:
            found[name] = _read_linked_index(run_dir, pool, plan, found.get(reads))
        else:
            found[name] = read_pool_index(run_dir, *pool_shards(pool.folder))
    return {pool.name: found[pool.name] for pool in pools}


def _read_linked_index(run_dir: RunDir, pool: Pool, plan: AskPlan, source: PoolIndex | None) -> PoolIndex:
    """The index of a pool that reads, or that is read: with what each trace is an edit of, and where it is."""
    names, parts = [], []
    for number, shard in enumerate(run_dir.shards(*pool_shards(pool.folder))):
        names.append(f"{pool.folder}/{shard.rsplit('/', 1)[1]}")
        for table in run_dir.column_tables([*COLUMNS, *EDIT_COLUMNS], *pool_shards(*names[-1].split("/"))):
            columns = _columns(table, keep_if_of(pool.teacher))
            marks = [
                source_mark(verdict, is_correct=is_correct).encode()
                for verdict, is_correct in zip(table.column("verdict").to_pylist(), columns[3].tolist(), strict=True)
            ]
            parents = identity_bytes(table.column("parent"))
            parts.append((*columns, np.array(marks, "S1"), parents, np.full(len(parents), number, np.int32)))
    traces, prompts, samples, correct, marks, parents, shards = _joined(parts)
    order = np.lexsort((traces, prompts))
    kept = order[is_new(traces[order])]
    if source is not None and source.sources is not None:
        kept = kept[np.isin(parents[kept], source.sources.taken(plan.plan(pool.name).takes))]
    starts = np.flatnonzero(is_new(prompts[kept]))
    return PoolIndex(
        prompts[kept][starts],
        np.append(starts, len(kept)),
        samples[kept],
        correct[kept],
        parents=parents[kept] if plan.plan(pool.name).reads else None,
        sources=Sources(traces[kept], marks[kept], shards[kept], tuple(names)) if pool.name in plan.readers else None,
    )


EMPTY = tuple(np.array([], kind) for kind in ("S16", "S16", np.int32, bool, "S1", "S16", np.int32))


def _joined(parts: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True)) if parts else EMPTY


def _columns(table: pa.Table, keep_if: str | None = None) -> tuple[Any, Any, Any, Any]:
    """A table with `COLUMNS` as identities of traces and prompts, sample indices, and which traces a mix may use."""
    is_correct = pc.and_(
        pc.equal(table.column("verdict"), Verdict.CORRECT.value), pc.not_equal(table.column("finish_reason"), "length")
    ).to_numpy()
    if keep_if is not None:
        is_correct = is_correct & [is_kept(growth, keep_if) for growth in table.column("growth").to_pylist()]
    samples = table.column("sample_index").to_numpy().astype(np.int32)
    ids = (identity_bytes(table.column(name)) for name in ("trace_id", "prompt_id"))
    return *ids, samples, is_correct


def identity_bytes(column: pa.Array | pa.ChunkedArray) -> Any:
    """Identities as an array of bytes, without making a Python string of each."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    padded = pc.utf8_rpad(whole, width=ID_BYTES, padding="\0")  # numpy strips trailing zeros
    fixed = padded.cast(pa.binary()).cast(pa.binary(ID_BYTES))
    return np.frombuffer(fixed.buffers()[1], f"S{ID_BYTES}", count=len(fixed), offset=fixed.offset * ID_BYTES)


def states_of(indices: dict[str, PoolIndex], prompt_id: str) -> dict[str, PoolState]:
    """Pool -> its state for one prompt."""
    return {pool: index.state(prompt_id) for pool, index in indices.items()}


def merge_traces(
    states: dict[str, PoolState], traces: Iterable[Trace], pools: Mapping[str, Pool], plan: AskPlan
) -> dict[str, PoolState]:
    """States with further traces added, e.g. those that a batch wrote before its engine died."""
    merged = dict(states)
    for trace in traces:
        state = merged.get(trace.pool, PoolState())
        if sample_number(trace) not in state.done:
            merged[trace.pool] = with_trace(state, trace, pools[trace.pool], plan)
    return merged


def sample_number(trace: Trace) -> int:
    """The number of a trace among all that its pool may hold for the prompt."""
    return edit_number(trace.parent, trace.sample_index) if trace.parent else trace.sample_index


def with_trace(state: PoolState, trace: Trace, pool: Pool, plan: AskPlan) -> PoolState:
    """The pool's state after one more trace."""
    is_correct = may_be_used(trace, keep_if_of(pool.teacher))
    mark = source_mark(trace.verdict, is_correct=is_correct)
    source = f"{mark}{trace.trace_id}" if pool.name in plan.readers else ""
    return state.add(sample_number(trace), is_correct=is_correct, source=source)


def encode_states(states: dict[str, PoolState]) -> str:
    """States as text: `POOL:CORRECT:SAMPLE,SAMPLE:SOURCE,SOURCE;POOL:...`."""
    parts = [
        f"{pool}:{state.correct}:{','.join(map(str, sorted(state.done)))}:{','.join(sorted(state.sources))}"
        for pool, state in states.items()
    ]
    return ";".join(parts)


def decode_states(text: str) -> dict[str, PoolState]:
    """The inverse of `encode_states`."""
    states = {}
    for part in filter(None, text.split(";")):
        pool, correct, done, sources = part.split(":")
        numbers = frozenset(map(int, filter(None, done.split(","))))
        states[pool] = PoolState(numbers, int(correct), frozenset(filter(None, sources.split(","))))
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
