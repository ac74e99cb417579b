"""Writes graded traces to disk: small shards while a batch runs, merged into one when it is complete.

A shard appears by rename and is named after its batch: a batch that restarts after its engine died finds its traces,
and a crash costs at most those of the last `flush_s` seconds.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill.core.events import log_event
from distill.core.run_dir import FAILED_REQUESTS, Parts, RunDir, StageName, pool_shards
from distill.core.schema import Dropped, Trace
from distill.generate.pool_index import identity_bytes
from distill.run.pools import Pool

IsOurs = Callable[[], Awaitable[bool]]

WRITE_WAITS_S = (1.0, 4.0, 16.0)
"""Waits before the last write of a batch is tried again, seconds: its answers are paid for, and storage may fail for a
moment."""


def whole_shard(batch: str) -> str:
    """The file with all traces of a batch that is complete."""
    return f"{batch}.parquet"


class BatchShards:
    """The traces of one batch; an async context that writes new ones every `flush_s` seconds and all at the end.

    `is_ours` is awaited before each write. A host that is cut off from the cluster may still reach the disk while
    another engine repeats its batches: it must not write any more then.
    """

    def __init__(
        self, run_dir: RunDir, batch: str, pools: Mapping[str, Pool], *, flush_s: float, is_ours: IsOurs
    ) -> None:
        self.run_dir, self.batch, self.pools, self.flush_s, self.is_ours = run_dir, batch, pools, flush_s, is_ours
        self.traces: list[Trace] = []
        self.failures: list[Dropped] = []
        self._num_written = 0
        self._parts: list[tuple[str, str]] = []
        self._pending_write: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._flusher = asyncio.create_task(self._flush_regularly())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flusher.cancel()
        with suppress(asyncio.CancelledError):
            await self._flusher
        if self._pending_write is not None:
            await asyncio.wait([self._pending_write])  # what it could not write, the last one does
        last = self.flush if error else self.finish
        for wait_s in WRITE_WAITS_S:
            try:
                await self._write(last)
            except OSError as fault:
                self._log_unwritten(fault)
                await asyncio.sleep(wait_s)
            else:
                return
        await self._write(last)

    async def _flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(self.flush_s)
            if len(self.traces) > self._num_written:
                try:
                    await self._write(self.flush)
                except OSError as fault:  # the next one writes these traces as well
                    self._log_unwritten(fault)

    def _log_unwritten(self, fault: OSError) -> None:
        about = {"batch": self.batch, "traces": len(self.traces) - self._num_written, "error": str(fault)}
        log_event("traces not written yet", run=self.run_dir.address, stage=StageName.GENERATE, **about)

    async def _write(self, write: Callable[[], None]) -> None:
        if await self.is_ours():
            # Shielded: a write continues in its thread after a cancellation, so it must be recorded and awaited.
            self._pending_write = asyncio.create_task(asyncio.to_thread(write))
            await asyncio.shield(self._pending_write)

    def recover(self) -> list[Trace]:
        """Read the traces that this batch wrote before its engine died."""
        known: dict[str, Trace] = {}
        for pool in self.pools.values():
            for path in self.run_dir.shards(*pool_shards(pool.folder)):
                name = path.rsplit("/", 1)[1]
                if name.startswith(self.batch):
                    self._parts.append((pool.folder, name))
                    rows = pq.read_table(path, filesystem=self.run_dir.fs).to_pylist()
                    known |= {row["trace_id"]: Trace(**row) for row in rows}
        self.traces = [*known.values()]
        self._num_written = len(self.traces)
        return self.traces

    def is_written(self) -> bool:
        """Whether all traces so far are on disk."""
        return self._num_written == len(self.traces)

    def flush(self) -> None:
        """Write the traces that are not on disk yet as a partial shard."""
        fresh = self.traces[self._num_written :]
        part = f"{self.batch}-{uuid.uuid4().hex[:8]}.parquet"
        for folder, traces in self._by_folder(fresh).items():
            self.run_dir.write_rows(traces, Trace, *pool_shards(folder, part))
            self._parts.append((folder, part))
        self._num_written += len(fresh)

    def finish(self) -> None:
        """Write the whole batch as one shard per pool, then remove the partial ones; readers count a trace once."""
        for folder, traces in self._by_folder(self.traces).items():
            self.run_dir.write_rows(traces, Trace, *pool_shards(folder, whole_shard(self.batch)))
        if self.failures:
            self.run_dir.write_rows(self.failures, Dropped, *FAILED_REQUESTS, f"{self.batch}.parquet")
        for folder, part in self._parts:
            if part != whole_shard(self.batch):
                self.run_dir.remove(*pool_shards(folder, part))

    def _by_folder(self, traces: Sequence[Trace]) -> dict[str, list[Trace]]:
        folders: dict[str, list[Trace]] = {}
        for trace in traces:
            folders.setdefault(self.pools[trace.pool].folder, []).append(trace)
        return folders


def read_texts(run_dir: RunDir, folder: str, shard: str, prompt_ids: Set[str]) -> dict[str, str]:
    """Trace id -> text of the traces of some prompts; none where the shard is gone."""
    columns = ["trace_id", "prompt_id", "completion"]
    try:
        with run_dir.fs.open(run_dir.path(*pool_shards(folder, shard)), "rb") as file:
            table = pq.read_table(file, columns=columns, use_threads=False)
    except FileNotFoundError:
        return {}
    mine = table.filter(pc.is_in(table.column("prompt_id"), pa.array(sorted(prompt_ids), pa.string())))
    return dict(zip(mine.column("trace_id").to_pylist(), mine.column("completion").to_pylist(), strict=True))


def drop_duplicates(run_dir: RunDir, folder: str) -> int:
    """Remove traces that a crash left in two shards (a partial one and the whole); returns how many.

    Shards are rewritten one by one, by rename: a crash in between can leave a trace twice, but never lose it.
    """
    tables = run_dir.column_tables(["trace_id"], *pool_shards(folder))
    every = np.sort(np.concatenate([np.empty(0, "S16"), *(identity_bytes(one.column(0)) for one in tables)]))
    if not (every[1:] == every[:-1]).any():
        return 0  # the usual case, without a Python set of all identities: 130 bytes each
    seen: set[str] = set()
    for path in run_dir.shards(*pool_shards(folder)):
        ids = pq.read_table(path, filesystem=run_dir.fs, columns=["trace_id"]).column("trace_id").to_pylist()
        fresh = [position for position, name in enumerate(ids) if name not in seen]
        if len(fresh) < len(ids):
            keep_rows(run_dir, pool_shards(folder, path.rsplit("/", 1)[1]), fresh)
        seen.update(ids)
    return len(every) - len(seen)


def keep_rows(run_dir: RunDir, shard: Parts, rows: Sequence[int]) -> None:
    """Rewrite a shard with some of its rows, by rename; one without rows is removed."""
    if rows:
        run_dir.write_table(run_dir.read_table(*shard, row_type=Trace).take(rows), *shard)
    else:
        run_dir.remove(*shard)
