"""Compiles DeepSpeed's CPU operator (shared-memory collectives) in advance; the first run would wait a minute for it.

Loading it later has two traps, which `prepare_loading` avoids in the calling process and its children: torch runs
`ninja` even for a compiled operator, and finds it on PATH only; and torch marks a compilation with a lock file and
waits for it forever, even when the process that wrote it was killed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

OPERATOR = "deepspeed_shm_comm"


def is_lock_open(lock: Path, proc: Path = Path("/proc")) -> bool:
    """Whether a process of this user has the lock file open. torch keeps it open while it compiles."""
    for descriptor in proc.glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == lock:
                return True
        except OSError:  # the process ended, or belongs to another user, who has another cache
            continue
    return False


def remove_stale_lock() -> None:
    """Remove the lock file that a killed compilation left behind."""
    from torch.utils.cpp_extension import _get_build_directory

    lock = Path(_get_build_directory(OPERATOR, verbose=False)).resolve() / "lock"
    if lock.exists() and not is_lock_open(lock):
        lock.unlink(missing_ok=True)


def path_with_tools(path: str, python: str = sys.executable) -> str:
    """PATH with the folder of this Python, where pip installs ninja, in front."""
    folder = os.path.dirname(python)
    return path if folder in path.split(os.pathsep) else f"{folder}{os.pathsep}{path}"


def prepare_loading() -> None:
    """Avoid both traps in this process and its children."""
    os.environ["PATH"] = path_with_tools(os.environ.get("PATH", os.defpath))
    remove_stale_lock()


def compile_operator() -> None:
    """Compile the operator, or load it if it is compiled."""
    prepare_loading()
    from deepspeed.accelerator import get_accelerator

    get_accelerator().create_op_builder("ShareMemCommBuilder").load()


if __name__ == "__main__":
    compile_operator()
