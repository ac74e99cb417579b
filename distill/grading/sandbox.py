"""Confines a worker before it reads a row: bounded memory; no files to write, no processes, no network.

Scorers pass a model's text to `sympy.parse_expr`, which evaluates it with access to the builtins. Python code cannot
remove an audit hook; the kernel enforces the resource limits.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
HARMLESS_EVENTS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")
FORBIDDEN_PREFIXES = (
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.",
    "pty.",
    "webbrowser.",
    "urllib.",
    "signal.",
)
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class ForbiddenError(BaseException):
    """Text of a row tried a forbidden operation. Not an `Exception`, because scorers swallow those."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        if flags & WRITE_FLAGS:
            raise ForbiddenError(f"open for writing: {arguments[0]!r}")
    elif event.startswith(FORBIDDEN_PREFIXES) and event not in HARMLESS_EVENTS:
        raise ForbiddenError(event)


def _limit(memory_bytes: int) -> None:
    """Allows `memory_bytes` beyond what is mapped now, no file of any size and no core dump."""
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped_bytes = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes + memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def confine(memory_bytes: int) -> None:
    """Confines this process until it exits, and makes it exit with its parent.

    Args:
        memory_bytes: address space beyond what is mapped now.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.dont_write_bytecode = True
    _limit(memory_bytes)
    sys.addaudithook(_audit)
