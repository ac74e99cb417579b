"""Ends a process whose vLLM engine has died, for Ray to start another.

vLLM's client for one caller (`vllm.LLM`, 0.29.0) closes its sockets when the engine's own process is killed, and waits
for the answers of that process all the same, without end. On a CPU the engine is in the caller's process.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import TypeVar

POLL_S = 1.0
GRACE_S = 5.0
"""An engine that fails by itself says why before its process ends, and vLLM raises that within this time."""
ENGINE_LOST = 75
"""Exit code of a process that ends with its engine: "try again" of sysexits.h."""

EngineT = TypeVar("EngineT")


def started_engine(start: Callable[[], EngineT]) -> tuple[EngineT, list[BaseProcess]]:
    """Start an engine; with it the processes that it runs in, none where that is this one."""
    before = {process.pid for process in multiprocessing.active_children()}
    engine = start()
    return engine, [process for process in multiprocessing.active_children() if process.pid not in before]


@contextmanager
def ends_with_engine(
    processes: Sequence[BaseProcess], *, grace_s: float = GRACE_S, end: Callable[[int], object] = os._exit
) -> Iterator[None]:
    """While the block asks an engine, end this process where one of the engine's has died.

    Args:
        processes: of `started_engine`.
        grace_s: how long the block may go on after that, to raise why; seconds.
        end: ends this process with an exit code.
    """
    is_answered = threading.Event()
    if processes:
        threading.Thread(target=_watch, args=(processes, is_answered, grace_s, end), daemon=True).start()
    try:
        yield
    finally:
        is_answered.set()


def _watch(
    processes: Sequence[BaseProcess], is_answered: threading.Event, grace_s: float, end: Callable[[int], object]
) -> None:
    # Not by their sentinels: a worker that the engine's process has forked holds that open beyond its death.
    while not is_answered.wait(POLL_S):
        if not all(process.is_alive() for process in processes) and not is_answered.wait(grace_s):
            names = ", ".join(f"{process.name} (pid {process.pid})" for process in processes)
            sys.stderr.write(f"a process of the engine has died, one of {names}: this one ends with it\n")
            end(ENGINE_LOST)
            return
