"""Checkpoints behind the steps: on the critical path is a copy in main memory, the write is a thread's.

At most one is on its way; the next one, and the end of the cell, wait for it. A fault is raised at the next step. The
marker that makes a checkpoint count is written when every worker has said that its share is there, so a process that
dies while it writes leaves nothing that anyone would take.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from distill.train.worker.checkpoint import STATE, writing

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

    from distill.core.run_dir import RunDir
    from distill.train.attempts import Hold
    from distill.train.worker.checkpoint import Checkpoints

POLL_S = 0.2


class Saver:
    """Saves the state of one worker's engine."""

    def __init__(
        self, engine: DeepSpeedEngine, run_dir: RunDir, checkpoints: Checkpoints, *, rank: int, num_workers: int,
        hold: Hold,
    ) -> None:  # fmt: skip
        self.engine, self.run_dir, self.checkpoints = engine, run_dir, checkpoints
        self.rank, self.num_workers, self.hold = rank, num_workers, hold
        self.blocked_s = 0.0
        """Seconds that the steps waited for checkpoints."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._on_its_way: list[Future[None]] = []
        self._is_over = threading.Event()
        engine.checkpoint_engine = _Later(engine.checkpoint_engine, self._later)

    def save(self, step: int, *, exclude_frozen: bool) -> None:
        """Copy the state after a step and have it written. Every worker must call it."""
        started = time.monotonic()
        self.wait()
        self.hold.check()
        place = ExitStack()
        folder = place.enter_context(writing(self.run_dir, *self.checkpoints.parts(step)))
        self.engine.save_checkpoint(str(folder), tag=STATE, save_latest=False, exclude_frozen_parameters=exclude_frozen)
        self._later(self._finish, place, step)
        self.blocked_s += time.monotonic() - started

    def check(self) -> None:
        """Raise what went wrong in the thread since."""
        failed = next((one for one in self._on_its_way if one.done() and one.exception()), None)
        if failed is not None:
            failed.result()

    def wait(self) -> None:
        """Until nothing is on its way; raises what went wrong."""
        for one in self._on_its_way:
            one.result()
        self._on_its_way.clear()

    def close(self) -> None:
        """The attempt ends, however: this worker's share is still written, others are not waited for."""
        self._is_over.set()
        self._thread.shutdown(wait=True)

    def _later(self, work: Any, *arguments: Any) -> None:
        self._on_its_way.append(self._thread.submit(work, *arguments))

    def _finish(self, place: ExitStack, step: int) -> None:
        """After the tensors: bring the folder to its place, tell the first worker, and there wait for all."""
        place.close()
        if any(one.done() and one.exception() for one in list(self._on_its_way)):
            return  # a part is missing: what is there must never count
        if self.num_workers > 1:
            self.run_dir.write_bytes(b"", *self.checkpoints.parts(step), self._written(self.rank))
        if self.rank == 0 and self._all_have_written(step):
            self.hold.check()
            self.checkpoints.commit(step)

    def _written(self, rank: int) -> str:
        return f"written-{self.hold.attempt}-{rank}"

    def _all_have_written(self, step: int) -> bool:
        wanted = {self._written(rank) for rank in range(self.num_workers)} if self.num_workers > 1 else set()
        while missing := [name for name in wanted if not self._is_there(step, name)]:
            if self._is_over.wait(POLL_S):
                return not [name for name in missing if not self._is_there(step, name)]
        return True

    def _is_there(self, step: int, name: str) -> bool:
        return bool(self.run_dir.fs.exists(self.run_dir.path(*self.checkpoints.parts(step), name)))


class _Later:
    """DeepSpeed's own checkpoint engine, but what it would write now is copied now and written later."""

    def __init__(self, writer: Any, later: Any) -> None:
        self._writer, self._later = writer, later

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def save(self, state_dict: Any, path: str) -> None:
        """As DeepSpeed calls it."""
        self._later(self._writer.save, tree_map(_copied, state_dict), path)


def _copied(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
