"""Storage of runs and models: shared folders and URIs, and a per-machine cache of models from URIs.

s3:// and gs:// are opened by pyarrow, which is installed anyway; any other protocol by its fsspec package. Credentials
come from where the clouds' own tools take them: environment variables, files, the machine's role.
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
"""Protocols of object stores: a file appears whole or not at all, and folders need not be created."""


def is_uri(location: str) -> bool:
    """Whether a location is a URI and not a path."""
    return "://" in location


def open_storage(uri: str) -> tuple[Any, str]:
    """(file system, path in its terms) of a folder or URI.

    Raises:
        ImportError, ValueError: the package of the protocol is not installed, or the protocol is unknown.
        OSError: the region of a bucket cannot be determined.
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
    """The folder in which this machine caches models."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mix-distillation" / "models"


def local_folder(location: str) -> str:
    """A model's folder on this machine. A model at a URI is fetched into the cache, once per machine.

    Args:
        location: a path, which is returned unchanged, or a URI; a `#` suffix distinguishes versions of one URI.

    Raises:
        OSError: it cannot be fetched.
    """
    return str(fetch(location)) if is_uri(location) else location


def fetch(address: str) -> Path:
    """The cached copy of a file or folder at a URI, fetched if necessary.

    Raises:
        OSError, ImportError, ValueError: it cannot be fetched.
    """
    target = _cached(address)
    if target.exists():
        return target
    folder = target.parent
    fs, path = open_storage(address.partition("#")[0])
    temporary = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir(parents=True)
    try:
        fs.get(path, str(temporary / target.name), recursive=True)
        _remove_dangling_link(target)
        temporary.rename(folder)
    except OSError:
        if not target.exists():  # otherwise another process of this machine was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def link_into_cache(address: str, folder: Path) -> None:
    """Link the folder that this machine uploaded to `address` into its cache, so that it is not fetched."""
    target = _cached(address)
    _remove_dangling_link(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(folder)


def _remove_dangling_link(target: Path) -> None:
    """Remove a link whose folder is gone from the cache, with the folder that holds it."""
    if target.is_symlink() and not target.exists():
        shutil.rmtree(target.parent)


def _cached(address: str) -> Path:
    name = Path(address.partition("#")[0].rstrip("/")).name
    return cache_dir() / f"fetched-{hashlib.sha256(address.encode()).hexdigest()[:16]}" / name
