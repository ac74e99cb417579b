"""Reads the rows of Hugging Face data sets.

`datasets` finds the files of a subset and split. Text files (JSON, CSV) are read by the same reader as files of a
recipe, not by `datasets`, which makes dates of answers that look like dates and 3.0 of 3; the others have types of
their own, and are read through its cache.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from distill.config.sources import HubSource
from distill.core.errors import InputError
from distill.prompts.rows.files import read_all, validate_one_format
from distill.prompts.rows.formats import BATCH_ROWS, table_rows
from distill.prompts.rows.raw_row import RawRow
from distill.run.source_files import SourceFiles, folder_files, suffixes

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_FILE = re.compile(r"hf://datasets/(?P<dataset>[^/]+/[^/@]+)@(?P<commit>[^/]+)/(?P<path>.+)")
TEXT_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")


def read_hub(source: HubSource) -> Iterator[RawRow]:
    """The rows of a data set, numbered from 0 behind its name and split.

    Raises:
        InputError: it cannot be read.
    """
    for number, row in enumerate(_rows(source)):
        yield row._replace(where=f"{source.dataset}/{source.split}:{number}")


def _rows(source: HubSource) -> Iterator[RawRow]:
    from datasets.exceptions import DatasetsError

    try:
        saved = _saved_split(source)
        if saved is not None:
            yield from read_all(saved)
            return
        builder = _builder(source)
        files = text_files(builder, source)
        yield from _text_rows(source, files) if files else _typed_rows(source, builder)
    except (DatasetsError, ConnectionError, OSError, ValueError, pa.ArrowException) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:300]
        remedy = "check its name, its split and the network, or download it and use kind = 'file'"
        raise InputError(f"cannot read the data set {source.dataset}: {first} -> {remedy}") from error


def _builder(source: HubSource) -> Any:
    from datasets import load_dataset_builder

    files = {source.split: list(source.data_files)} if source.data_files else None
    return load_dataset_builder(source.dataset, source.subset, revision=source.revision, data_files=files)


def _saved_split(source: HubSource) -> SourceFiles | None:
    """The files of a local folder that `save_to_disk` wrote, a data set or one with splits; None for anything else."""
    from fsspec.implementations.local import LocalFileSystem

    folder, fs = Path(source.dataset).expanduser(), LocalFileSystem()
    for candidate in (folder / source.split, folder):
        if (candidate / "state.json").is_file():
            return SourceFiles(fs, folder_files(fs, str(candidate.resolve())))
    return None


def text_files(builder: Any, source: HubSource) -> list[str]:
    """The files of a split, where all are of formats without types; empty where `datasets` has to read them."""
    known = getattr(builder.config, "data_files", None) or {}
    files = [str(file) for file in known.get(source.split, ())]
    is_text = files and all(suffixes(PurePosixPath(file).name)[0] in TEXT_FORMATS for file in files)
    return files if is_text else []


def _text_rows(source: HubSource, files: Sequence[str]) -> Iterator[RawRow]:
    from fsspec.core import url_to_fs

    validate_one_format(source.dataset, files)
    for file in files:
        where, commit = _local_copy(file) if not source.streaming else file, _commit_of(file)
        fs, path = url_to_fs(where)
        yield from (row._replace(commit=commit) for row in read_all(SourceFiles(fs, [path])))


def _local_copy(file: str) -> str:
    """A file of the hub in this machine's cache; any other file as it is."""
    from huggingface_hub import hf_hub_download

    match = HUB_FILE.fullmatch(file)
    if match is None:
        return file
    return str(hf_hub_download(match["dataset"], match["path"], revision=match["commit"], repo_type="dataset"))


def _commit_of(file: str) -> str:
    match = HUB_FILE.fullmatch(file)
    return match["commit"] if match and COMMIT.fullmatch(match["commit"]) else ""


def _typed_rows(source: HubSource, builder: Any) -> Iterator[RawRow]:
    if source.streaming:
        rows, commit = builder.as_streaming_dataset(split=source.split), ""
    else:
        builder.download_and_prepare()
        rows = builder.as_dataset(split=source.split)
        commit = read_commit([file["filename"] for file in rows.cache_files])
    for table in rows.with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield from (row._replace(commit=commit) for row in table_rows(table.to_batches()))


def read_commit(files: Sequence[str]) -> str:
    """The commit of the data set that was read, from the path of its cache files; empty if the path has none.

    The hub is not asked for it: offline, `datasets` uses the cached version, whatever revision was requested.
    """
    folders = {Path(file).parent.name for file in files}
    commit = folders.pop() if len(folders) == 1 else ""
    return commit if COMMIT.fullmatch(commit) else ""
