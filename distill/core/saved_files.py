"""The files of saved weights: their lengths and hashes, kept when saved and compared before they are loaded."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import TypedDict

from fsspec.implementations.local import LocalFileSystem

from cluster.storage import cache_dir, is_uri, open_storage
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, Training
from distill.core.schema import content_hash

CARD, MIX = "README.md", "mix.json"
"""Notes about a student beside its weights, which are written anew whenever a run ends."""

FILES, MODEL, ADAPTER = "files", "model", "adapter"
"""Keys of a manifest's details: `files` -> `model`, `adapter` -> the saved files."""

LOADED = ("*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*")
"""Files that a library may load from a folder, also where they were not there when it was saved. Not `*.bin`, which
another program may fetch into the same folder of the hub's cache: nothing loads them beside safetensors."""

WEIGHTS = ".safetensors"

DIGEST_CHARS = 64


class SavedFile(TypedDict):
    """A file as it was saved."""

    bytes: int
    sha256: str


SavedFiles = Mapping[str, SavedFile]
"""Name of a file in its folder -> the file."""


def saved_files(folder: Path) -> dict[str, SavedFile]:
    """Length and hash of every file in a folder but the notes; files are read at the same time."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name not in (CARD, MIX))
    digests = file_digests(folder, names)
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": digests[name]} for name in names}


def weight_hashes(saved: SavedFiles | None) -> dict[str, str]:
    """File of weights -> its SHA-256; empty where nothing was recorded."""
    return {name: file["sha256"] for name, file in (saved or {}).items() if name.endswith(WEIGHTS)}


def saved_of(manifest: Manifest | None, kind: str) -> SavedFiles | None:
    """The files that were saved of a cell, of its `model` or its `adapter`; None where they were not recorded."""
    files: Mapping[str, SavedFiles] = manifest.details.get(FILES, {}) if manifest else {}
    return files.get(kind)


def trained_address(run_dir: RunDir, cell: str, kind: str, manifest: Manifest | None) -> str:
    """Address of the saved `model` or `adapter` of a cell. In a bucket its version is that of the files: a cell that
    was trained again under its key to other weights is not taken from a machine's cache.

    `manifest`: the cell's.
    """
    files = Training(cell).adapter if kind == ADAPTER else Training(cell).model
    key, saved = manifest.key if manifest else "", saved_of(manifest, kind) or {}
    digests = sorted((name, file["sha256"]) for name, file in saved.items())
    return run_dir.address_of(*files, version=content_hash("saved", key, digests) if digests else key)


def changed_files(address: str, saved: SavedFiles) -> list[str]:
    """What differs from the saved files, in words; empty where nothing does.

    Args:
        address: the folder, or a URI (its `#` suffix is left out), of which only names and lengths are compared.
        saved: the files as they were saved.

    Raises:
        OSError: it cannot be read.
    """
    fs, root = open_storage(address.partition("#")[0] if is_uri(address) else address)
    entries = fs.ls(root, detail=True) if fs.exists(root) else []
    lengths = {str(entry["name"]).rsplit("/", 1)[-1]: int(entry.get("size") or 0) for entry in entries}
    if isinstance(fs, LocalFileSystem):  # which does not tell the length of what a link leads to
        lengths = {name: os.path.getsize(os.path.join(root, name)) for name in lengths if _is_file(root, name)}
    same = [name for name, file in saved.items() if lengths.get(name) == file["bytes"]]
    digests = file_digests(Path(root), same) if isinstance(fs, LocalFileSystem) else {}
    return list(_differences(saved, lengths, digests))


def _is_file(root: str, name: str) -> bool:
    return os.path.isfile(os.path.join(root, name))


def _differences(saved: SavedFiles, lengths: Mapping[str, int], digests: Mapping[str, str]) -> Iterator[str]:
    for name, file in saved.items():
        if name not in lengths:
            yield f"{name} is gone"
        elif lengths[name] != file["bytes"]:
            yield f"{name} has {lengths[name]:,} bytes and had {file['bytes']:,}"
        elif digests.get(name, file["sha256"]) != file["sha256"]:
            yield f"{name} has other content (same length)"
    for name in sorted(lengths.keys() - saved.keys() - {CARD, MIX}):
        if any(fnmatch(name, pattern) for pattern in LOADED):
            yield f"{name} was not there"


def file_digests(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of files of a folder, as `sha256sum` prints it. Hashing leaves the interpreter to other threads."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return dict(zip(names, pool.map(lambda name: file_digest(folder / name), names), strict=True))


def file_digest(file: Path) -> str:
    """SHA-256 of a file. It is read whole once per machine: the digest is kept in the cache until the file changes, by
    its path, length, inode and the times of its last writing and of its last change, which no program can set back."""
    state = file.stat()
    stamp = f"{file.resolve()} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
    known = cache_dir().parent / "digests" / hashlib.sha256(stamp.encode()).hexdigest()
    if known.is_file() and len(digest := known.read_text()) == DIGEST_CHARS:
        return digest
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # no room or no right to remember it: it is computed again
        known.parent.mkdir(parents=True, exist_ok=True)
        temporary = known.with_name(f"{known.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.write_text(digest)
        temporary.rename(known)
    return digest
