"""Peak memory of a stage: this process and all its descendants on this machine, Ray's workers included."""

import ctypes
import threading
from types import TracebackType
from typing import Self

import psutil
import pyarrow as pa

INTERVAL_S = 2.0


class PeakMemory:
    """Samples the memory of the process tree while a block runs; `peak_bytes` holds the result.

    Uses the proportional set size, which counts a shared page once. Processes on other nodes, and a Ray cluster that
    this process joined and did not start, are not in the tree and not counted.
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
        while True:
            self.peak_bytes = max(self.peak_bytes, tree_bytes())
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


def tree_bytes() -> int:
    """Proportional set size of this process and its descendants; resident set size on systems without it."""
    this = psutil.Process()
    return sum(_bytes_of(process) for process in [this, *this.children(recursive=True)])


def _bytes_of(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.rss))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
