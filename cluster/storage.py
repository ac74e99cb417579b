"""Where runs and models may lie: a folder that every machine sees, or storage that is addressed by a URI.

s3:// and gs:// are opened by pyarrow, which is here anyway; any other protocol by its fsspec package. Credentials are
looked for where the clouds' own tools look: variables, files, the machine's role.
"""

import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs as pyarrow_fs

BUCKETS = ("s3", "gs", "gcs")
"""Protocols of object stores: a file is there whole or not at all, and there are no folders to make."""


def is_address(place: str) -> bool:
    """Whether a place is a URI and not a path."""
    return "://" in place


def open_storage(uri: str) -> tuple[Any, str]:
    """(file system, path in its terms) of a folder or URI.

    Raises:
        ImportError, ValueError: the protocol has no package here, or there is no such protocol.
        OSError: a bucket's region cannot be found out.
    """
    protocol, _, path = uri.partition("://")
    if path and protocol in BUCKETS:
        return ArrowFSWrapper(_bucket_storage(protocol, path)), path
    fs, root = fsspec.core.url_to_fs(uri)
    return fs, str(root)


def _bucket_storage(protocol: str, path: str) -> Any:
    if protocol != "s3":
        return pyarrow_fs.GcsFileSystem()
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not endpoint:
        region = pyarrow_fs.resolve_s3_region(path.split("/", 1)[0])
    return pyarrow_fs.S3FileSystem(region=region, endpoint_override=endpoint)


def cache_dir() -> Path:
    """Where this machine keeps models."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mix-distillation" / "models"


def local_folder(place: str) -> str:
    """A model's folder on this machine. What lies in storage is fetched into the cache, once per machine.

    Args:
        place: a path, which stays as it is, or a URI; what follows a `#` tells versions of one place apart.

    Raises:
        OSError: it cannot be fetched.
    """
    return str(fetched(place)) if is_address(place) else place


def fetched(address: str) -> Path:
    """The copy of a file or folder of some storage in the cache, made if it is not there.

    Raises:
        OSError, ImportError, ValueError: it cannot be had.
    """
    target = _cached(address)
    if target.exists():
        return target
    home = target.parent
    fs, path = open_storage(address.partition("#")[0])
    temporary = home.with_name(f"{home.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir(parents=True)
    try:
        fs.get(path, str(temporary / target.name), recursive=True)
        _unlink_lost(target)
        temporary.rename(home)
    except OSError:
        if not target.exists():  # else another process of this machine was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def keep_as_fetched(address: str, folder: Path) -> None:
    """Spare this machine the fetching of what was put there from its own folder."""
    target = _cached(address)
    _unlink_lost(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(folder)


def _unlink_lost(target: Path) -> None:
    """Take a link out of the cache whose folder is gone, with what it lay in."""
    if target.is_symlink() and not target.exists():
        shutil.rmtree(target.parent)


def _cached(address: str) -> Path:
    name = Path(address.partition("#")[0].rstrip("/")).name
    return cache_dir() / f"fetched-{hashlib.sha256(address.encode()).hexdigest()[:16]}" / name
