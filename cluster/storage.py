"""Storage of runs and models: shared folders and URIs, and a per-machine cache of models from URIs.

s3:// and gs:// are opened by pyarrow, which is installed anyway; any other protocol by its fsspec package. Credentials
come from where the clouds' own tools take them: environment variables, files, the machine's role.
"""

import contextlib
import glob
import hashlib
import importlib.util
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper

BUCKETS = ("s3", "gs", "gcs")
"""Protocols of object stores: a file appears whole or not at all, and folders need not be created."""
IN_PACKAGE = "package://"
"""Begins a location below an installed Python package: `package://distill/prompts/shipped/harmless-40.jsonl`."""
_SAME_BUCKETS = {"gcs": "gs", "s3a": "s3"}
_LOCAL = re.compile(r"(?:file|local):(?://(?:localhost(?=/))?)?", re.IGNORECASE)


def is_uri(location: str) -> bool:
    """Whether a location is a URI and not a path."""
    return "://" in location


def canonical_address(location: str) -> str:
    """The one spelling of a folder or URI: two that name the same place become equal, and open it all the same.

    `s3://b/x/`, `S3://b//x` and `s3a://b/x` are `s3://b/x`; `file:///d/x`, `/d//x/` and `/d/y/../x` are `/d/x`. A
    relative path becomes absolute. Links are not followed: a folder may be on another machine.
    """
    local = _LOCAL.match(location)
    if local or not is_uri(location):
        path = os.path.abspath(os.path.expanduser(location[local.end() if local else 0 :]))
        return re.sub("^/+", "/", path)
    scheme, _, path = location.partition("://")
    scheme = _SAME_BUCKETS.get(scheme.lower(), scheme.lower())
    # Only a bucket's path is known to have no empty parts; pyarrow refuses them.
    return f"{scheme}://" + ("/".join(filter(None, path.split("/"))) if scheme in BUCKETS else path.rstrip("/"))


def open_storage(uri: str) -> tuple[Any, str]:
    """(file system, path in its terms) of a folder or URI.

    Raises:
        ImportError, ValueError: the package of the protocol is not installed, or the protocol is unknown.
        OSError: the region of a bucket cannot be determined.
    """
    if uri.startswith(IN_PACKAGE):
        uri = package_path(uri)
    protocol, _, path = uri.partition("://")
    if path and protocol in BUCKETS:
        return ArrowFSWrapper(_bucket_storage(protocol, path)), path
    fs, root = fsspec.core.url_to_fs(uri)
    return fs, str(root)


def package_path(location: str) -> str:
    """The path of what `package://NAME/...` names, without importing the package.

    Raises:
        ImportError: there is no package of this name here.
    """
    name, _, below = location.removeprefix(IN_PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no package {name!r} is installed")
    return str(Path(spec.submodule_search_locations[0]) / below)


def matching_files(pattern: str, folder: str = "") -> tuple[Any, list[str]]:
    """(file system, sorted paths in its terms): the file of exactly this name, or else all that match the pattern.

    Args:
        pattern: path or URI with `*`, `?` or `[...]`; a relative one is below `folder`.
        folder: taken literally, whatever characters its name has.

    Raises:
        ImportError, ValueError, OSError: as `open_storage`.
    """
    is_whole = not folder or is_uri(pattern) or os.path.isabs(os.path.expanduser(pattern))
    fs, path = open_storage(pattern if is_whole else str(Path(folder) / pattern))
    if fs.exists(path):
        return fs, [path]
    root = "" if is_whole else open_storage(folder)[1].rstrip("/")
    return fs, sorted(map(str, fs.glob(glob.escape(root) + path.removeprefix(root))))


def download(fs: Any, path: str, target: Path) -> None:
    """Copy a file, or a folder with all that is in it. Unlike `fs.get`, which takes `[`, `*` and `?` for a pattern.

    Raises:
        FileNotFoundError: there is nothing at `path`.
    """
    root = path.rstrip("/")
    files = [str(file) for file in fs.find(root)]
    if not files:
        raise FileNotFoundError(f"{root} does not exist, or is an empty folder")
    for file in files:
        local = target / file.removeprefix(root).lstrip("/")
        local.parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(file, str(local))


def upload(fs: Any, folder: Path, path: str) -> None:
    """Copy the files of a local folder to a folder of a file system; the counterpart of `download`."""
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        there = f"{path.rstrip('/')}/{file.relative_to(folder).as_posix()}"
        fs.makedirs(there.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(file), there)


def _bucket_storage(protocol: str, path: str) -> Any:
    from pyarrow import fs as pyarrow_fs  # it loads the clients of all clouds, which a local folder does not need

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
        location: a path, which is returned unchanged unless libraries would take it for a pattern, or a URI; a `#`
            suffix distinguishes versions of one URI.

    Raises:
        OSError: it cannot be fetched.
    """
    return str(fetch(location)) if is_uri(location) else _without_pattern(location)


def _without_pattern(path: str) -> str:
    """The same folder by a link in the cache, where its path has `[`, `*` or `?`: vLLM and DeepSpeed glob for files in
    it and would find none."""
    parts = Path(os.path.abspath(path)).parts
    last = max((index for index, part in enumerate(parts) if re.search(r"[*?[]", part)), default=-1)
    if last < 0 or not os.path.exists(path):
        return path
    target = Path(*parts[: last + 1])
    link = cache_dir() / f"linked-{hashlib.sha256(str(target).encode()).hexdigest()[:16]}"
    link.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # an earlier run or another process made it; its name is its target's
        link.symlink_to(target)
    return str(link.joinpath(*parts[last + 1 :]))


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
        download(fs, path, temporary / target.name)
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
