"""A full disk, said in the same words wherever a run writes: what could not be written, where, and the remedy."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.core.errors import FullDiskError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""No room on the disk; a quota that is used up."""
SAID = ("No space left on device", "Disk quota exceeded")
"""The same in the text of errors that have no number: of safetensors, and of what Ray brings from another process."""
LEAST_BYTES = 4096
"""Below this the disk is the cause of any error of a library that was writing: of a checkpoint torch then says
`unexpected pos 576 vs 534`."""

Kinds = tuple[type[Exception], ...]


@contextmanager
def full_disk_said(*paths: str, errors: Kinds = (OSError,)) -> Iterator[None]:
    """Raise a `FullDiskError` in place of an error that a full disk caused while the block wrote.

    Args:
        paths: what is written; of several, that on the fullest disk is named.
        errors: kinds of error that the block raises where it cannot write; others, and those with another cause, pass.

    Raises:
        FullDiskError: the disk is full.
    """
    try:
        yield
    except errors as error:
        if not is_full(error, *paths):
            raise
        raise FullDiskError(_in_words(error, paths)) from error


def is_full(error: Exception, *paths: str) -> bool:
    """Whether a full disk caused an error. `paths`: what was being written."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return any(words in str(error) for words in SAID) or any(free_bytes(path) < LEAST_BYTES for path in paths)


def free_bytes(path: str) -> int:
    """Room on the disk that a path is on, also where there is no such file yet."""
    return shutil.disk_usage(_folder(path)).free


def _folder(path: str) -> Path:
    """The path itself where it is a folder, else the nearest one above it that exists."""
    whole = Path(path).absolute()
    return next(one for one in (whole, *whole.parents) if one.is_dir())


def _in_words(error: Exception, paths: tuple[str, ...]) -> str:
    named = getattr(error, "filename", None)
    path = Path(str(named) if named else min(paths, key=free_bytes)).absolute()
    folder = _folder(str(path))
    quota = isinstance(error, OSError) and error.errno == errno.EDQUOT
    what = "your quota is used up on" if quota else "no room is left on"
    return (
        f"{what} the disk of {folder}: {path} could not be written -> make room there (df -h {folder}), then run the "
        "same command again; it goes on from what is on disk"
    )
