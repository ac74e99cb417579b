"""The process of a training worker: its log, its clock, its memory, and the settings that libraries need."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from distill.core.run_dir import Training

if TYPE_CHECKING:
    from distill.core.run_dir import RunDir
    from distill.train.worker.job import CellJob

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


class Clock:
    """Seconds between named points."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        """End a lap: seconds since the one before."""
        self.laps[name] = round(time.monotonic() - self._since, 2)
        self._since = time.monotonic()


def rank() -> int:
    """Number of this worker among those of the cell."""
    return int(dist.get_rank())


def peak_rss_gib() -> float:
    """Largest resident memory of this process so far, GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def log_line(text: str) -> None:
    """Write a line to the worker's log."""
    with suppress(OSError):  # the log's disk is full, which the next file that matters says better
        # Not print: Ray Train replaces it by one that prints everything twice.
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} rank {rank()} pid {os.getpid()} {text}\n")
        sys.stdout.flush()


@contextmanager
def worker_log(job: CellJob, run_dir: RunDir) -> Iterator[None]:
    """Redirect everything that this process prints, C++ libraries included, to its log in the cell's folder."""
    if run_dir.is_local:
        path = run_dir.local_path(*Training(job.cell).log(rank()))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        with suppress(OSError):  # a full disk under the log must not take the place of the error that is raised
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            sys.stdout.flush()


def keep_freed_memory() -> None:
    """Have the C library keep freed memory. By default it returns every large tensor to the kernel and gets the next
    one page by page: an eighth of a small student's time on a CPU."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # glibc's
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def prepare_process(job: CellJob) -> None:
    """Set up the process: threads, quiet libraries, where DeepSpeed finds its compiler."""
    if job.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        keep_freed_memory()
    # DeepSpeed compiles its CPU communication with ninja, which lies beside this Python and may not be on the PATH.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.prefix, "bin")), os.environ.get("PATH", "")])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(job.threads)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    log_line(f"trains {job.cell} on {job.device} with {job.threads} threads")
