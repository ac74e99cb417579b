"""Asynchronous checkpoints: the state is copied to host memory, and a thread writes it while training goes on.

At most one checkpoint is being written; the next one, and the end of the cell, wait for it. An error of the thread is
raised at the next step. The marker that makes a checkpoint complete is written once every worker has reported that its
share is on disk, so a process that dies while it writes leaves nothing that would be continued from.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from distill.core.errors import FullDiskError
from distill.core.full_disk import full_disk_said
from distill.train.worker.checkpoint import STATE, WRITE_ERRORS, writing

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

    from distill.core.run_dir import RunDir
    from distill.train.attempts import Lease
    from distill.train.worker.checkpoint import Checkpoints

POLL_S = 0.2


class AsyncCheckpointer:
    """Saves the state of one worker's engine."""

    def __init__(
        self, engine: DeepSpeedEngine, run_dir: RunDir, checkpoints: Checkpoints, *, rank: int, num_workers: int,
        lease: Lease,
    ) -> None:  # fmt: skip
        self.engine, self.run_dir, self.checkpoints = engine, run_dir, checkpoints
        self.rank, self.num_workers, self.lease = rank, num_workers, lease
        self.blocked_s = 0.0
        """Seconds that training waited for checkpoints."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: list[Future[None]] = []
        self._is_closed = threading.Event()
        engine.checkpoint_engine = _DeferredWriter(engine.checkpoint_engine, self._defer)

    def save(self, step: int, *, exclude_frozen: bool) -> None:
        """Copy the state after a step and have it written. Every worker must call it."""
        started = time.monotonic()
        self.wait()
        self.lease.check()
        upload = ExitStack()
        folder = upload.enter_context(writing(self.run_dir, *self.checkpoints.parts(step)))
        self.engine.save_checkpoint(str(folder), tag=STATE, save_latest=False, exclude_frozen_parameters=exclude_frozen)
        self._defer(self._finish, upload, step)
        self.blocked_s += time.monotonic() - started

    def check(self) -> None:
        """Raise the thread's error, if there is one."""
        failed = next((one for one in self._pending if one.done() and one.exception()), None)
        if failed is not None:
            failed.result()

    def wait(self) -> None:
        """Wait until everything is written; raises the thread's error, if there is one."""
        for one in self._pending:
            one.result()
        self._pending.clear()

    def close(self) -> None:
        """End with the attempt, however it ended: this worker's share is still written, others are not waited for."""
        self._is_closed.set()
        self._thread.shutdown(wait=True)

    def _defer(self, work: Any, *arguments: Any) -> None:
        self._pending.append(self._thread.submit(work, *arguments))

    def _finish(self, upload: ExitStack, step: int) -> None:
        """After the tensors: upload the folder and report it; the first worker commits when all have reported."""
        upload.close()
        if any(one.done() and one.exception() for one in list(self._pending)):
            return  # a part is missing: the checkpoint must never become complete
        if self.num_workers > 1:
            self.run_dir.write_bytes(b"", *self.checkpoints.parts(step), self._marker(self.rank))
        if self.rank == 0 and self._all_have_written(step):
            self.lease.check()
            self.checkpoints.commit(step)

    def _marker(self, rank: int) -> str:
        return f"written-{self.lease.attempt}-{rank}"

    def _all_have_written(self, step: int) -> bool:
        wanted = {self._marker(rank) for rank in range(self.num_workers)} if self.num_workers > 1 else set()
        while missing := [name for name in wanted if not self._is_there(step, name)]:
            if self._is_closed.wait(POLL_S):
                return not [name for name in missing if not self._is_there(step, name)]
        return True

    def _is_there(self, step: int, name: str) -> bool:
        return self.run_dir.exists(*self.checkpoints.parts(step), name)


class _DeferredWriter:
    """DeepSpeed's own checkpoint engine, except that a save copies its tensors now and writes them later."""

    def __init__(self, writer: Any, defer: Any) -> None:
        self._writer, self._defer = writer, defer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def save(self, state_dict: Any, path: str) -> None:
        """As DeepSpeed calls it."""
        self._defer(self._write, tree_map(_copied, state_dict), path)

    def _write(self, state_dict: Any, path: str) -> None:
        try:
            with full_disk_said(path, errors=WRITE_ERRORS):
                self._writer.save(state_dict, path)
        except FullDiskError:
            Path(path).unlink(missing_ok=True)  # with this part on the disk nobody could write a line
            raise


def _copied(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
