"""Peak memory of a stage: this process and all its descendants on this machine, Ray's workers included."""

import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil
import pyarrow as pa

INTERVAL_S = 2.0


class PeakMemory:
    """Samples the memory of the process tree while a block runs; `peak_bytes` holds the result.

    Uses the proportional set size, which counts a shared page once. The kernel walks all pages for it, a twelfth of a
    core every 2 s, so it is asked for only when the resident sets together have reached a new peak. Processes on other
    nodes, and a Ray cluster that this process joined and did not start, are not in the tree and not counted.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        most_resident = 0
        while True:
            if (resident := tree_bytes(resident_bytes)) > most_resident:
                most_resident = resident
                self.peak_bytes = max(self.peak_bytes, tree_bytes(proportional_bytes))
            if self._done.wait(INTERVAL_S):
                return


def release_freed_memory() -> None:
    """Return freed memory to the system.

    glibc keeps it in the heaps of the threads that used it: a driver grows by some kB with every small object that it
    hands to Ray, even after all of them are freed. Arrow's memory pool keeps freed memory too.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:  # glibc only
        trim(0)


def proportional_bytes(process: psutil.Process) -> int:
    """Memory of a process with shared pages divided among those that share them; all of them where nobody tells."""
    info = process.memory_full_info()
    return int(getattr(info, "pss", info.rss))


def resident_bytes(process: psutil.Process) -> int:
    """Memory of a process, shared pages in full: told at once."""
    return int(process.memory_info().rss)


def tree_bytes(bytes_of: Callable[[psutil.Process], int]) -> int:
    """The sum over this process and its descendants; those that end meanwhile count for nothing."""
    this, total = psutil.Process(), 0
    for process in [this, *this.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += bytes_of(process)
    return total
