"""Compiles DeepSpeed's CPU operator (shared-memory collectives) ahead, as the first run would wait a minute for it.

Loading it later has two traps, which `prepare_loading` clears in the process that calls it (and in its children):
torch asks `ninja` even for a compiled operator, and finds it on PATH only; and torch marks a compilation with a lock
file and waits for that without end, also when the process that wrote it was killed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

OPERATOR = "deepspeed_shm_comm"


def is_held(lock: Path, proc: Path = Path("/proc")) -> bool:
    """Does a process of ours have the lock file open? torch keeps it open while it compiles."""
    for descriptor in proc.glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == lock:
                return True
        except OSError:  # the process ended, or is another user's, who has a cache of their own
            continue
    return False


def drop_stale_lock() -> None:
    from torch.utils.cpp_extension import _get_build_directory

    lock = Path(_get_build_directory(OPERATOR, verbose=False)).resolve() / "lock"
    if lock.exists() and not is_held(lock):
        lock.unlink(missing_ok=True)


def with_tools(path: str, python: str = sys.executable) -> str:
    """PATH with the folder of this Python, where pip put ninja, in front."""
    folder = os.path.dirname(python)
    return path if folder in path.split(os.pathsep) else f"{folder}{os.pathsep}{path}"


def prepare_loading() -> None:
    os.environ["PATH"] = with_tools(os.environ.get("PATH", os.defpath))
    drop_stale_lock()


def compile_operator() -> None:
    prepare_loading()
    from deepspeed.accelerator import get_accelerator

    get_accelerator().create_op_builder("ShareMemCommBuilder").load()


if __name__ == "__main__":
    compile_operator()
