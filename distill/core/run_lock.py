"""One process at a time in a run directory, however its address is spelled."""

import errno
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from distill.core.errors import InputError
from distill.core.run_dir import LOCK, RunDir, own_folder

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system answers that has no locks, as some mounts do."""


def lock_path(run_dir: RunDir) -> Path:
    """The file that is locked while a process works on a run; one per run, however its directory is spelled."""
    if run_dir.is_local:
        return run_dir.local_path(*LOCK)
    return own_folder("locks", run_dir)


def _open_lock(run_dir: RunDir) -> TextIO:
    path = lock_path(run_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w")
    except OSError as error:  # a read-only mount, another user's folder, a file in the place of a folder
        remedy = "name a run directory that can be written"
        raise InputError(f"{run_dir.uri} cannot be written to: {path}: {error.strerror} -> {remedy}") from error


@contextmanager
def run_lock(run_dir: RunDir) -> Iterator[None]:
    """Keep a second process off a run directory. The lock goes with the process, however it ends.

    A local folder is locked for every machine that mounts it, as far as its file system has locks; a bucket, which has
    none, for this machine alone. Where the file system has no locks the run goes on, with a warning.

    Raises:
        InputError: another process has it, or the place cannot be written to.
    """
    with _open_lock(run_dir) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{run_dir.uri} is being worked on by another process -> wait for it or stop it"
            ) from error
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            sys.stderr.write(
                f"WARNING: {lock.name} cannot be locked ({error.strerror}): nothing keeps a second process off "
                f"{run_dir.uri} -> run only one at a time\n"
            )
        yield
