"""When a cell was at work, where, and how each attempt ended: `RUN/train/CELL/attempts.jsonl`, read by the report.

The first worker notes that it begins; it, or where it is dead Ray Train's controller, notes the end.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.core.events import log_event
from distill.core.run_dir import RunDir

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FILE = "attempts.jsonl"
HOLDER = "holder"


class SupersededError(RuntimeError):
    """Another attempt has taken the cell over. Not a `DistillError`: there is nobody left to tell."""


@dataclass(frozen=True)
class Hold:
    """A cell in the hands of one attempt, the newest. Workers whose host was cut off from the cluster and given up may
    still run and reach the disk; what they would write is not wanted any more."""

    run_dir: RunDir
    cell: str
    attempt: str
    """The same for all workers of an attempt, and of no other one."""

    def take(self) -> None:
        """From now on the cell is this attempt's."""
        self.run_dir.write_bytes(self.attempt.encode(), "train", self.cell, HOLDER)

    def check(self) -> None:
        """Before anything is written that counts.

        Raises:
            SupersededError: the cell is another attempt's now.
        """
        holder = self.run_dir.fs.cat_file(self.run_dir.path("train", self.cell, HOLDER)).decode()
        if holder != self.attempt:
            raise SupersededError(f"{self.cell}: attempt {self.attempt} ends, {holder} has taken the cell over")


@dataclass(frozen=True)
class Attempt:
    """One life of a cell's workers."""

    started_at: float
    """Seconds since 1970."""
    ended_at: float | None
    """None: still at work, or nobody was left to note it."""
    outcome: str
    """`done`, `early` (its first steps are, other rows are still to come), `failed` (it would fail again), `lost` (its
    workers died) or `running`."""
    host: str
    pid: int
    """Of the first worker."""
    num_workers: int
    first_step: int
    """Steps that were done before, in earlier attempts."""
    detail: str = ""


def note(run_dir: RunDir, cell: str, event: str, **values: Any) -> None:
    """Append an event to a cell's file."""
    log_event(f"attempt: {event}", run=run_dir.uri, stage="train", cell=cell, **values)
    line = json.dumps({"event": event, "at": round(time.time(), 2), **values})
    run_dir.write_bytes((_text(run_dir, cell) + line + "\n").encode(), "train", cell, FILE)


def note_begin(run_dir: RunDir, cell: str, num_workers: int) -> None:
    """A cell's first worker has begun."""
    note(run_dir, cell, "begin", host=socket.gethostname(), pid=os.getpid(), num_workers=num_workers)


def read_attempts(run_dir: RunDir, cell: str) -> list[Attempt]:
    """All attempts of a cell, the first one first."""
    return to_attempts([json.loads(line) for line in _text(run_dir, cell).splitlines()])


def to_attempts(events: Sequence[Mapping[str, Any]]) -> list[Attempt]:
    """Attempts from their events. One that nobody noted the end of is lost if another has begun since."""
    begins = [place for place, event in enumerate(events) if event["event"] == "begin"]
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
    path = run_dir.path("train", cell, FILE)
    return run_dir.fs.cat_file(path).decode() if run_dir.fs.exists(path) else ""


def loss_recorder(run_uri: str, cell: str) -> Any:
    """A Ray Train callback that notes when a cell's workers die; it runs in the controller."""
    from ray.train import UserCallback

    class LossRecorder(UserCallback):
        """Notes the end of an attempt whose workers cannot."""

        def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
            """Called by Ray Train once per failure."""
            lines = [line for error in worker_exceptions.values() for line in str(error).splitlines() if line.strip()]
            note(RunDir(run_uri), cell, "end", outcome="lost", detail=lines[-1].strip()[:300] if lines else "")

    return LossRecorder()
