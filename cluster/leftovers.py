"""What a Ray that was started here would leave on this machine, removed when it ends: only what its own processes made.

Ray ends its workers by SIGKILL. A vLLM engine in one then leaves its sockets and a file of torch.distributed in the
folder for temporary files, and a semaphore of multiprocessing in /dev/shm.
"""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

SCRATCH_VARIABLE = "DISTILL_SCRATCH"
"""Names the folder for engines' temporary files, for the processes of a Ray that was started here."""

MAX_SCRATCH_CHARS = 60
"""A socket's path may have 107 characters, of which vLLM's names take 37."""

SEMAPHORES = "/dev/shm/sem.mp-"
"""What Python's multiprocessing calls its semaphores."""


def scratch_env(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which an engine's processes put their temporary files where they are removed; empty where there is
    no such folder: on a cluster that others started."""
    folder = environment.get(SCRATCH_VARIABLE)
    return {"TMPDIR": folder, "VLLM_RPC_BASE_PATH": folder} if folder else {}


@contextmanager
def scratch_folder() -> Iterator[None]:
    """A folder for engines' temporary files, which Ray must be started within, and which is removed at the end."""
    folder = tempfile.mkdtemp(prefix="distill-")
    if len(folder) <= MAX_SCRATCH_CHARS:
        os.environ[SCRATCH_VARIABLE] = folder
    try:
        yield
    finally:
        os.environ.pop(SCRATCH_VARIABLE, None)
        shutil.rmtree(folder, ignore_errors=True)


def semaphores_of(process: psutil.Process) -> set[Path]:
    """The semaphores that the descendants of a process have open."""
    found: set[Path] = set()
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):  # it ended meanwhile
            maps = Path(f"/proc/{child.pid}/maps").read_text(encoding="utf-8", errors="replace")
            found |= {Path(line.split(maxsplit=5)[5]) for line in maps.splitlines() if SEMAPHORES in line}
    return found


def remove_semaphores(found: set[Path]) -> None:
    """Remove semaphores whose processes have ended. A process that still ends keeps what it has open."""
    for path in found:
        with contextlib.suppress(OSError):  # its own process removed it, or it is marked as removed
            path.unlink()


def remove_session(folder: str) -> None:
    """Remove the session folder of a Ray that was started here and has ended, with its logs."""
    for handler in logging.getLogger("ray.data").handlers:
        handler.close()  # it would go on with its file here in this process's next session; closed, it opens one there
    path = Path(folder)
    shutil.rmtree(path, ignore_errors=True)
    latest = path.with_name("session_latest")
    if latest.is_symlink() and not latest.exists():
        latest.unlink(missing_ok=True)
