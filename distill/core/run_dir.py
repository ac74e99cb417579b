"""A run directory: the one module that owns every path, the manifests and what "complete" means.

A stage (or one item of a stage, such as a training cell) is complete when its `manifest.json` exists and carries the
key of the present recipe. The manifest is written last, by rename where the file system has one. Works on any fsspec
URI; object stores make a single PUT visible at once, which serves the same purpose.
"""

import dataclasses
import fcntl
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from cluster.storage import open_storage
from distill.core.errors import InputError
from distill.core.schema import Dropped, arrow_schema

ROW_GROUP_ROWS = 8192
"""Rows that a reader of a few must read at least."""

SHARED = (("prompts",), ("generate",), ("verify",), ("models",), ("mix", "features"))
"""What a run directory inside another one takes from there."""

GATHERED_SHARDS = 512
"""Shards whose rows are laid together while many are read."""

STAGES = ("prompts", "generate", "verify", "mix", "train", "evaluate", "report")


@dataclass(frozen=True)
class Manifest:
    """The completion record of a stage or an item of it. Rows in = rows out + dropped."""

    stage: str
    key: str
    """Content hash of everything the result depends on."""
    rows_in: int = 0
    rows_out: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)
    wall_s: float = 0.0
    code_version: str = ""
    finished_at: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the stage wants the report to know: counts, token totals, solve rates, realised weights."""

    def __post_init__(self) -> None:
        assert self.rows_in == self.rows_out + sum(self.drops.values()), (
            f"{self.stage}: {self.rows_in} rows in, {self.rows_out} out, drops {dict(self.drops)} do not add up"
        )


class RunDir:
    """Paths and files of one run. `uri` is a local folder or any fsspec URI."""

    def __init__(self, uri: str, before: "RunDir | None" = None) -> None:
        try:
            self.fs, self.root = open_storage(uri)
        except (ImportError, ValueError, OSError) as error:  # no package for it, no such protocol, no such bucket
            raise InputError(f"{uri} cannot be opened here: {error} -> install that, or name a folder") from error
        self.uri, self.before = uri, before
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def path(self, *parts: str) -> str:
        """Path of a file or folder below the run directory, in the terms of its file system."""
        if self.before and any(parts[: len(shared)] == shared for shared in SHARED):
            return self.before.path(*parts)
        return "/".join([self.root.rstrip("/"), *parts])

    @property
    def address(self) -> str:
        """What opens it from any working folder: the absolute path of a local folder, else the URI."""
        return self.root if self.is_local else self.uri

    def place(self, *parts: str, version: str = "") -> str:
        """A file or folder of the run as it is named on any machine; `cluster.storage.local_folder` opens a model so.

        `version`: what tells it from another one that was there before, and may be in a machine's cache.
        """
        if self.is_local:
            return str(self.local_path(*parts))
        return "/".join([self.uri.rstrip("/"), *parts]) + (f"#{version}" if version else "")

    def nested(self, *parts: str) -> "RunDir":
        """A run directory inside this one with stages of its own from `mix` on; what comes before is this one's."""
        return RunDir("/".join([self.uri.rstrip("/"), *parts]), before=self)

    def local_path(self, *parts: str) -> Path:
        """The same as a local `Path`; only for runs on a local or mounted folder."""
        if not self.is_local:
            raise InputError(f"{self.uri} is not a local folder; copy the run to one (or mount it) first")
        return Path(self.path(*parts))

    # Manifests

    def read_manifest(self, *item: str) -> Manifest | None:
        """The manifest of a stage (`"mix"`) or of an item (`"train", "cell"`); None where there is none."""
        path = self.path(*item, "manifest.json")
        if not self.fs.exists(path):
            return None
        try:
            return Manifest(**json.loads(self.fs.cat_file(path)))
        except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a manifest ({error}); delete it to have the stage done again") from error

    def is_complete(self, key: str, *item: str) -> bool:
        """Whether the item was finished with this key."""
        manifest = self.read_manifest(*item)
        return manifest is not None and manifest.key == key

    def write_manifest(self, manifest: Manifest, *item: str) -> None:
        """Commit an item: from here on it is complete."""
        self.write_bytes(
            json.dumps(dataclasses.asdict(manifest), indent=1, default=str).encode(), *item, "manifest.json"
        )

    # Files

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Write a whole file at once: a reader sees the old one or the new one, never a part."""
        path = self.path(*parts)
        self._make_folder(path)
        if not self.is_local:
            self.fs.pipe_file(path, data)
            return
        temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        self.fs.pipe_file(temporary, data)
        Path(temporary).replace(path)

    def _make_folder(self, path: str) -> None:
        if not isinstance(self.fs, ArrowFSWrapper):  # a bucket has no folders to make
            self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)

    def write_rows(self, rows: Iterable[Any], row_type: type, *parts: str) -> int:
        """Write dataclass rows as one Parquet shard with the type's explicit schema; returns their number."""
        return self.write_table(rows_table(rows, row_type), *parts)

    def write_table(self, table: pa.Table, *parts: str) -> int:
        """Write a table as one Parquet shard; returns its number of rows."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
        self.write_bytes(sink.getvalue().to_pybytes(), *parts)
        return int(table.num_rows)

    @contextmanager
    def table_writer(self, schema: pa.Schema, *parts: str) -> Iterator[pq.ParquetWriter]:
        """Write one Parquet shard table by table; it appears when all is written, and not at all after an error."""
        path = self.path(*parts)
        self._make_folder(path)
        temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with self.fs.open(temporary, "wb") as sink, pq.ParquetWriter(sink, schema, compression="zstd") as writer:
                yield writer
            self.fs.mv(temporary, path)
        finally:
            if self.fs.exists(temporary):
                self.fs.rm(temporary)

    def shards(self, *parts: str) -> list[str]:
        """Complete Parquet shards of a folder, or the one file named; temporary files are not shards."""
        path = self.path(*parts)
        if path.endswith(".parquet"):
            return [path] if self.fs.exists(path) else []
        return sorted(str(name) for name in self.fs.glob(f"{path}/*.parquet"))

    def read_table(self, *parts: str, row_type: type, columns: Sequence[str] | None = None) -> pa.Table:
        """All shards of a folder (or the one file named) as one table of the type's schema; empty where none."""
        schema = arrow_schema(row_type)
        wanted = pa.schema([schema.field(name) for name in columns or schema.names])
        tables = [self._read_shard(shard, wanted, row_type) for shard in self.shards(*parts)]
        return pa.concat_tables(tables) if tables else wanted.empty_table()

    def _read_shard(self, shard: str, wanted: pa.Schema, row_type: type) -> pa.Table:
        """One shard in the present schema: a column that an older version did not write holds the field's default."""
        with self.fs.open(shard, "rb") as file, pq.ParquetFile(file) as parquet:
            written = set(parquet.schema_arrow.names)
            absent = {
                field.name: field.default
                for field in dataclasses.fields(row_type)
                if field.name not in written and field.default is not dataclasses.MISSING
            }
            table = parquet.read(columns=[name for name in wanted.names if name not in absent])
        if unknown := [name for name in wanted.names if name not in absent and name not in written]:
            raise InputError(f"{shard} has no column {', '.join(unknown)}; delete it to have its rows written again")
        for name in wanted.names:
            if name in absent:
                column = pa.array([absent[name]] * table.num_rows, wanted.field(name).type)
                table = table.append_column(name, column)
        return table.select(wanted.names).cast(wanted)

    def read_columns(self, columns: Sequence[str], *parts: str) -> pa.Table | None:
        """Some columns of all shards of a folder, as they were written; None where there is no shard.

        A shard may hold as few rows as a batch, and a table of its own takes more than its rows: they are laid together
        as they come.
        """
        gathered, fresh = list[pa.Table](), list[pa.Table]()
        for shard in self.shards(*parts):
            with self.fs.open(shard, "rb") as file, pq.ParquetFile(file) as parquet:
                fresh.append(parquet.read(columns=list(columns), use_threads=False))
            if len(fresh) == GATHERED_SHARDS:
                gathered.append(pa.concat_tables(fresh).combine_chunks())
                fresh = []
        tables = [*gathered, *fresh]
        return pa.concat_tables(tables).combine_chunks() if tables else None

    def num_rows(self, *parts: str) -> int:
        """Rows of one Parquet file, from its footer."""
        with self.fs.open(self.path(*parts), "rb") as file:
            return int(pq.ParquetFile(file).metadata.num_rows)

    def write_drops(self, drops: Iterable[Dropped], stage: str) -> None:
        """Keep a stage's dropped rows for audit."""
        self.write_rows(drops, Dropped, stage, "dropped.parquet")

    def remove(self, *parts: str) -> None:
        """Delete a file or folder that is stale or temporary."""
        path = self.path(*parts)
        if self.fs.exists(path):
            self.fs.rm(path, recursive=True)


def rows_table(rows: Iterable[Any], row_type: type) -> pa.Table:
    """Dataclass rows as a table with the type's explicit schema."""
    return pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=arrow_schema(row_type))


def now() -> str:
    """The time as manifests write it: UTC, ISO 8601, seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def log_path(run_dir: RunDir) -> Path:
    """Where libraries' messages go: into the run directory where it is local."""
    return run_dir.local_path("logs", "run.log") if run_dir.is_local else Path(gettempdir()) / "distill-run.log"


@contextmanager
def held(run_dir: RunDir) -> Iterator[None]:
    """Keep a second process off a local run directory. The lock goes with the process, however it ends.

    Raises:
        InputError: another process has it.
    """
    if not run_dir.is_local:
        yield
        return
    path = run_dir.local_path(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{run_dir.uri} is being worked on by another process -> wait for it or stop it"
            ) from error
        yield
