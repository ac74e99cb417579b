"""Attempts at a cell: when, where and how each ended, and which one may write (`RUN/train/CELL/attempts.jsonl`).

The first worker records the beginning. It also records the end; where it has died, Ray Train's controller does.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.core.errors import FullDiskError
from distill.core.events import log_event
from distill.core.run_dir import RunDir, StageName, Training

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEASE = "lease"
"""File of a cell that names the attempt which may write."""


class SupersededError(RuntimeError):
    """Another attempt has claimed the cell. Not a `DistillError`: nobody waits for this attempt's result any more."""


@dataclass(frozen=True)
class Lease:
    """One attempt's right to write a cell's files; the newest attempt holds it.

    Workers on a host that was cut off from the cluster and given up may still run and reach the disk: what they would
    write is refused.
    """

    run_dir: RunDir
    cell: str
    attempt: str
    """The same for all workers of an attempt, and of no other one."""

    def claim(self) -> None:
        """From now on this attempt holds the lease."""
        self.run_dir.write_bytes(self.attempt.encode(), *Training(self.cell).file(LEASE))

    def check(self) -> None:
        """Call before writing anything that others read.

        Raises:
            SupersededError: another attempt holds the lease.
        """
        holder = self.run_dir.fs.cat_file(self.run_dir.path(*Training(self.cell).file(LEASE))).decode()
        if holder != self.attempt:
            raise SupersededError(f"{self.cell}: attempt {self.attempt} ends, attempt {holder} has claimed the cell")


@dataclass(frozen=True)
class Attempt:
    """One life of a cell's workers."""

    started_at: float
    """Seconds since 1970."""
    ended_at: float | None
    """None: still running, or nobody was left to record it."""
    outcome: str
    """`done`, `failed` (it would fail again), `lost` (its workers died) or `running`."""
    host: str
    pid: int
    """Of the first worker."""
    num_workers: int
    first_step: int
    """Steps that earlier attempts had done."""
    detail: str = ""


def record_event(run_dir: RunDir, cell: str, event: str, **values: Any) -> None:
    """Append an event to a cell's file."""
    log_event(f"attempt: {event}", run=run_dir.address, stage=StageName.TRAIN, cell=cell, **values)
    line = json.dumps({"event": event, "at": round(time.time(), 2), **values})
    run_dir.write_bytes((_text(run_dir, cell) + line + "\n").encode(), *Training(cell).attempts)


def record_begin(run_dir: RunDir, cell: str, num_workers: int) -> None:
    """Record that a cell's first worker has started."""
    record_event(run_dir, cell, "begin", host=socket.gethostname(), pid=os.getpid(), num_workers=num_workers)


def read_attempts(run_dir: RunDir, cell: str) -> list[Attempt]:
    """All attempts of a cell, the first one first."""
    return parse_attempts([json.loads(line) for line in run_dir.read_lines(*Training(cell).attempts)])


def parse_attempts(events: Sequence[Mapping[str, Any]]) -> list[Attempt]:
    """Attempts from their events. One without a recorded end is lost if another has started since."""
    begins = [index for index, event in enumerate(events) if event["event"] == "begin"]
    bounds = [*begins, len(events)]
    return [
        _attempt(events[start:end], is_last=end == len(events)) for start, end in zip(begins, bounds[1:], strict=True)
    ]


def _attempt(events: Sequence[Mapping[str, Any]], *, is_last: bool) -> Attempt:
    begin = events[0]
    end = next((event for event in events if event["event"] == "end"), None)
    resumed = next((event["step"] for event in events if event["event"] == "resume"), 0)
    return Attempt(
        started_at=begin["at"],
        ended_at=end["at"] if end else None,
        outcome=end["outcome"] if end else "running" if is_last else "lost",
        host=begin["host"],
        pid=begin["pid"],
        num_workers=begin["num_workers"],
        first_step=resumed,
        detail=end.get("detail", "") if end else "",
    )


def _text(run_dir: RunDir, cell: str) -> str:
    return (run_dir.read_bytes(*Training(cell).attempts) or b"").decode()


def failure_recorder(run_uri: str, cell: str) -> Any:
    """A Ray Train callback that records when a cell's workers die; it runs in the controller."""
    from ray.train import UserCallback

    class FailureRecorder(UserCallback):
        """Records the end of an attempt whose workers cannot."""

        def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
            """Called by Ray Train once per failure."""
            lines = [line for error in worker_exceptions.values() for line in str(error).splitlines() if line.strip()]
            detail = lines[-1].strip()[:300] if lines else ""
            with suppress(FullDiskError):  # the record is missed less than the next attempt would be
                record_event(RunDir(run_uri), cell, "end", outcome="lost", detail=detail)

    return FailureRecorder()
