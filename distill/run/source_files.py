"""Which files a file source is read from: a file, those of a glob, of a folder, or of a saved data set."""

import json
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from cluster.storage import matching_files
from distill.config.sources import FileSource, source_pattern
from distill.core.errors import InputError

DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".ipc")
COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
NO_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json", "manifest.json")
"""Files that describe a data set, in any folder of data."""


class SourceFiles(NamedTuple):
    """A file system and the paths of the files in it, in order."""

    fs: Any
    paths: list[str]


def source_files(source: FileSource, base: Path) -> SourceFiles:
    """The files of a source; none where there is nothing.

    Raises:
        InputError: it is a data set with several splits, or its storage cannot be opened.
    """
    try:
        fs, found = matching_files(source.path, str(base))
        return SourceFiles(fs, [file for one in found for file in _files_of(fs, one)])
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{source_pattern(source, base)} cannot be opened: {error} -> correct `path`") from error


def _files_of(fs: Any, path: str) -> list[str]:
    is_page = path.startswith(("http://", "https://"))  # any with links in it would be a folder
    return folder_files(fs, path) if not is_page and fs.isdir(path) else [path]


def folder_files(fs: Any, folder: str) -> list[str]:
    """The data files of a folder: those that `save_to_disk` lists, or all below it that are neither hidden nor known
    to hold no data.

    Raises:
        InputError: it is a saved data set with several splits.
    """
    saved = _saved_files(fs, folder.rstrip("/"))
    if saved is not None:
        return saved
    files = sorted(map(str, fs.find(folder)))
    below = [(file, PurePosixPath(file).relative_to(PurePosixPath(folder)).parts) for file in files]
    return [file for file, parts in below if is_data(parts[-1]) and not any(part[0] in "._" for part in parts)]


def _saved_files(fs: Any, folder: str) -> list[str] | None:
    """The shards of a data set that `save_to_disk` wrote; None where the folder is no such."""
    if fs.isfile(f"{folder}/dataset_dict.json"):
        splits = json.loads(fs.cat_file(f"{folder}/dataset_dict.json")).get("splits", [])
        if len(splits) != 1:
            raise InputError(f"{folder} holds the splits {', '.join(splits)} -> name one: path = '{folder}/SPLIT'")
        return _saved_files(fs, f"{folder}/{splits[0]}")
    if not fs.isfile(f"{folder}/state.json"):
        return None
    listed = json.loads(fs.cat_file(f"{folder}/state.json")).get("_data_files", [])
    return [f"{folder}/{one['filename']}" for one in listed] or None


def suffixes(name: str) -> tuple[str, str]:
    """(format, compression) by the suffixes of a file's name, in lower case; empty where there is none."""
    path = PurePosixPath(name.lower())
    if path.suffix not in COMPRESSED_SUFFIXES:
        return path.suffix, ""
    return PurePosixPath(path.stem).suffix, path.suffix


def is_data(name: str) -> bool:
    """Whether a file's name is that of a data file."""
    return suffixes(name)[0] in DATA_SUFFIXES and name.lower() not in NO_DATA
