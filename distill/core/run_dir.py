"""A run directory: the one module that owns every path, the manifests and what "complete" means.

A stage (or one item of a stage, such as a training cell) is complete when its `manifest.json` exists and carries the
key of the present recipe. The manifest is written last, by rename where the file system has one. Works on any fsspec
URI; object stores make a single PUT visible at once, which serves the same purpose.
"""

import dataclasses
import fnmatch
import hashlib
import json
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from cluster.storage import cache_dir, canonical_address, open_storage
from distill.core.errors import InputError
from distill.core.full_disk import full_disk_said
from distill.core.manifest import Manifest
from distill.core.schema import Dropped, Trace, arrow_schema, with_defaults
from distill.core.stage_names import StageName as StageName  # its values are this module's folder names

ROW_GROUP_ROWS = 8192
"""Rows that a reader of a few must read at least."""

GATHERED_ROWS = 1 << 14
"""Rows that are laid together while many shards are read."""

Parts = tuple[str, ...]
"""A file or folder below a run directory."""


# Every file and folder of a run by name. `STAGE/manifest.json` and `STAGE/dropped.parquet` go with every stage.

RECIPE: Parts = ("recipe.json",)
LOCK: Parts = (".lock",)
LIBRARY_LOG: Parts = ("logs", "run.log")
EVENT_LOG: Parts = ("logs", "events.jsonl")
PROMPTS: Parts = (StageName.PROMPTS, "prompts.parquet")
FAILED_REQUESTS: Parts = (StageName.GENERATE, "failed")
VERDICTS: Parts = (StageName.VERIFY, "verdicts.parquet")
ARMS: Parts = (StageName.MIX,)
HELD_OUT: Parts = (StageName.MIX, "held-out")
"""One file per pool: its traces of the prompts that no arm teaches."""
TRACE_FATES: Parts = (StageName.MIX, "traces.parquet")
REPORT_PAGE: Parts = (StageName.REPORT, "report.html")
REPORT_JSON: Parts = (StageName.REPORT, "report.json")
REPORT_SCORES: Parts = (StageName.REPORT, "scores.parquet")
EVAL_CONFIG: Parts = ("eval.json",)
EVAL_SCORES: Parts = ("scores.parquet",)
EVAL_JSON: Parts = ("scores.json",)
DOCTOR_PROBE: Parts = (".doctor",)
"""Files that `distill doctor` writes to see who can, and removes."""
MLFLOW: Parts = ("mlruns",)
TRACKED: Parts = ("trackers",)
_FEATURES: Parts = (StageName.MIX, "features")
_MODELS: Parts = ("models",)
_INHERITED = ((StageName.PROMPTS,), (StageName.GENERATE,), (StageName.VERIFY,), _MODELS, _FEATURES)
"""What a run directory inside another one takes from there."""


def dropped_rows(stage: StageName) -> Parts:
    """What a stage dropped, with reasons."""
    return stage, "dropped.parquet"


def benchmark_problems(name: str) -> Parts:
    """The problems of a benchmark."""
    return StageName.PROMPTS, "benchmarks", f"{name}.parquet"


def pool_shards(folder: str, *shard: str) -> Parts:
    """A pool's traces, or one shard of them (its file name)."""
    return StageName.GENERATE, folder, *shard


def arm_examples(name: str, folder: Parts = ARMS) -> Parts:
    """The rows of an arm, or of a pool's held-out traces."""
    return *folder, f"{name}.parquet"


def trace_features(key: str) -> Parts:
    """Features of traces that were computed under a key."""
    return *_FEATURES, key


def trace_fits(key: str) -> Parts:
    """Student-aware scores of traces that were computed under a key."""
    return StageName.MIX, "fit", key


def search_round(number: int) -> Parts:
    """The run directory of one round of the weight search."""
    return StageName.SEARCH, f"round-{number}"


def finished_pass(number: int) -> Parts:
    """The item whose manifest says that a pass is done, and which cells it trained under which keys."""
    return "passes", str(number)


def benchmark_scores(model: str, benchmark: str) -> Parts:
    """A model's graded answers to a benchmark."""
    return StageName.EVALUATE, model, f"{benchmark}.parquet"


def benchmark_answers(model: str, benchmark: str) -> Parts:
    """Answers that are not graded yet."""
    return StageName.EVALUATE, model, f"{benchmark}.answers"


def score_item(model: str, benchmark: str) -> Parts:
    """The item whose manifest says that the scores are complete."""
    return StageName.EVALUATE, model, benchmark


def quantised_folders(model: str) -> Parts:
    """Pattern of the folders with the scores of a model's quantised files, beside its own."""
    return StageName.EVALUATE, model, "*"


QUANTISED_MANIFESTS: Parts = (*quantised_folders("*"), "*", "manifest.json")
"""Pattern of the manifests of all scores of quantised files."""


def model_record(name: str) -> Parts:
    """Where a model of the recipe was found."""
    return *_MODELS, f"{name}.json"


def published_model(name: str) -> Parts:
    """A copy of a model's files, for machines that do not share this one's disk."""
    return *_MODELS, name


class Training:
    """The files of one training cell, by name."""

    def __init__(self, cell: str) -> None:
        self.folder: Parts = (StageName.TRAIN, cell)
        """The item whose manifest says that the cell is trained."""
        self.model = self.file("model")
        """The trained weights, merged where they were an adapter."""
        self.any_model_file = *self.model, "*"
        """Pattern of its files."""
        self.adapter = self.file("adapter")
        """The LoRA adapter."""
        self.metrics = self.file("metrics.jsonl")
        """A line per optimiser step."""
        self.attempts = self.file("attempts.jsonl")
        """A line per event of an attempt."""
        self.key = self.file("key.json")
        """Key of the attempt that the files are of."""
        self.outcome = self.file("outcome.json")
        """How the first worker ended."""
        self.dropped = self.file("dropped.parquet")
        """Rows that were too long."""
        self.ray = self.file("ray")
        """Ray Train's own state."""
        self.checkpoints = self.file("checkpoints")
        self.any_checkpoint = *self.checkpoints, "step-*"
        """Pattern of all checkpoints."""

    def file(self, name: str) -> Parts:
        """A file of the cell that only its writer and its reader know."""
        return *self.folder, name

    def checkpoint(self, step: int) -> Parts:
        """The checkpoint after a step."""
        return *self.checkpoints, f"step-{step:08d}"

    def round(self, number: int, kind: str) -> Parts:
        """A file about one round of answers, counted from 0. `kind`: its ending."""
        return *self.file("rounds"), f"round-{number:06d}.{kind}"

    def log(self, rank: int) -> Parts:
        """What a worker printed."""
        return self.file(f"log-rank{rank}.txt")


class RunDir:
    """Paths and files of one run. `uri` is a local folder or any fsspec URI, in any spelling."""

    def __init__(self, uri: str, before: "RunDir | None" = None) -> None:
        self.uri, self.before = uri, before
        self.address = canonical_address(uri)
        """What opens it from any working folder, and is the same for every spelling: what jobs and locks go by."""
        try:
            self.fs, self.root = open_storage(self.address)
        except (ImportError, ValueError, OSError) as error:  # no package for it, no such protocol, no such bucket
            raise InputError(f"{uri} cannot be opened here: {error} -> install that, or name a folder") from error
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def path(self, *parts: str) -> str:
        """Path of a file or folder below the run directory, in the terms of its file system."""
        if self.before and any(parts[: len(shared)] == shared for shared in _INHERITED):
            return self.before.path(*parts)
        return "/".join([self.root.rstrip("/"), *parts])

    def address_of(self, *parts: str, version: str = "") -> str:
        """A file or folder of the run as it is named on any machine; `cluster.storage.local_folder` opens a model so.

        `version`: what tells it from another one that was there before, and may be in a machine's cache.
        """
        if self.is_local:
            return str(self.local_path(*parts))
        return "/".join([self.address, *parts]) + (f"#{version}" if version else "")

    def nested(self, *parts: str) -> "RunDir":
        """A run directory inside this one with stages of its own from `mix` on; what comes before is this one's."""
        return RunDir("/".join([self.address, *parts]), before=self)

    def local_path(self, *parts: str) -> Path:
        """The same as a local `Path`; only for runs on a local or mounted folder."""
        if not self.is_local:
            raise InputError(f"{self.uri} is not a local folder; copy the run to one (or mount it) first")
        return Path(self.path(*parts))

    # Manifests

    def read_manifest(self, *item: str) -> Manifest | None:
        """The manifest of a stage (`"mix"`) or of an item (`"train", "cell"`); None where there is none."""
        path, data = self.path(*item, "manifest.json"), self.read_bytes(*item, "manifest.json")
        if data is None:
            return None
        try:
            return Manifest(**json.loads(data))
        except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a manifest ({error}); delete it to have the stage done again") from error

    def arm_entries(self, stage: str = "mix") -> dict[str, dict[str, Any]]:
        """Arm -> what the stage that wrote its rows recorded of them; empty where it is not done."""
        manifest = self.read_manifest(stage)
        return manifest.details.get("mixes", {}) if manifest else {}

    def has_manifest(self, *item: str) -> bool:
        """Whether the item was finished, with whatever key."""
        return self.exists(*item, "manifest.json")

    def is_complete(self, key: str, *item: str) -> bool:
        """Whether the item was finished with this key."""
        manifest = self.read_manifest(*item)
        return manifest is not None and manifest.key == key

    def write_manifest(self, manifest: Manifest, *item: str) -> None:
        """Commit an item: from here on it is complete."""
        self.write_bytes(
            json.dumps(dataclasses.asdict(manifest), indent=1, default=str).encode(), *item, "manifest.json"
        )

    def remove_manifest(self, *item: str) -> None:
        """Take an item's commitment back: it is done again, from what is on disk of it."""
        self.remove(*item, "manifest.json")

    # Files

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Write a whole file at once: a reader sees the old one or the new one, never a part.

        Raises:
            FullDiskError: the disk is full; the old file is still there.
        """
        path = self.path(*parts)
        with full_disk_said(path):
            self._make_folder(path)
            if self.is_local:
                self._write_local(data, path)
            else:
                self.fs.pipe_file(path, data)

    def _write_local(self, data: bytes, path: str) -> None:
        temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            self.fs.pipe_file(temporary, data)
            Path(temporary).replace(path)
        finally:  # of a write that failed: a full disk would fill up with parts
            Path(temporary).unlink(missing_ok=True)

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
        """Write one Parquet shard table by table; it appears when all is written, and not at all after an error.

        Raises:
            FullDiskError: the disk is full.
        """
        path = self.path(*parts)
        temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        with full_disk_said(path):
            self._make_folder(path)
            try:
                with self.fs.open(temporary, "wb") as sink, pq.ParquetWriter(sink, schema, compression="zstd") as table:
                    yield table
                self.fs.mv(temporary, path)
            finally:
                if self.fs.exists(temporary):
                    self.fs.rm(temporary)

    def shards(self, *parts: str) -> list[str]:
        """Complete Parquet shards of a folder, or the one file named; temporary files are not shards."""
        path = self.path(*parts)
        if path.endswith(".parquet"):
            return [path] if self.fs.exists(path) else []
        return self.matching(*parts, "*.parquet")

    def matching(self, *parts: str) -> list[str]:
        """Sorted paths below the run directory; a part with a `*` stands for every name that it matches.

        Not by glob: the path of the run directory itself may hold `[`, `*` or `?`.
        """
        first = next((index for index, part in enumerate(parts) if "*" in part), len(parts))
        found = [self.path(*parts[:first])]
        for part in parts[first:]:
            found = [path for folder in found for path in self._entries(folder, part)]
        return sorted(path for path in found if self.fs.exists(path))

    def _entries(self, folder: str, part: str) -> list[str]:
        if "*" not in part:
            return [f"{folder}/{part}"]
        try:
            paths = [str(path).rstrip("/") for path in self.fs.ls(folder, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        # Listing a file gives the file, listing a folder of a bucket may give its own marker.
        names = [path.rsplit("/", 1)[1] for path in paths if path.startswith(f"{folder}/")]
        return [f"{folder}/{name}" for name in names if fnmatch.fnmatchcase(name, part)]

    def read_table(self, *parts: str, row_type: type, columns: Sequence[str] | None = None) -> pa.Table:
        """All shards of a folder (or the one file named) as one table of the type's schema; empty where none."""
        schema = arrow_schema(row_type)
        wanted = pa.schema([schema.field(name) for name in columns or schema.names])
        tables = [self._read_shard(shard, wanted, row_type) for shard in self.shards(*parts)]
        return pa.concat_tables(tables) if tables else wanted.empty_table()

    def _read_shard(self, shard: str, wanted: pa.Schema, row_type: type) -> pa.Table:
        with self.fs.open(shard, "rb") as file, pq.ParquetFile(file) as parquet:
            table = with_defaults(parquet.read(columns=wanted.names), row_type, wanted.names)
        if missing := set(wanted.names) - set(table.schema.names):
            names = ", ".join(sorted(missing))
            raise InputError(f"{shard} has no column {names} -> delete it to have its rows written again")
        return table.select(wanted.names).cast(wanted)

    def column_tables(self, columns: Sequence[str], *parts: str, row_type: type = Trace) -> Iterator[pa.Table]:
        """Some columns of all shards of a folder, as they were written, some `GATHERED_ROWS` rows at a time.

        A shard may hold as few rows as a batch, and a table of its own takes more than its rows.
        """
        fresh, num_rows = list[pa.Table](), 0
        for shard in self.shards(*parts):
            with self.fs.open(shard, "rb") as file, pq.ParquetFile(file) as parquet:
                fresh.append(with_defaults(parquet.read(columns=list(columns), use_threads=False), row_type, columns))
            num_rows += fresh[-1].num_rows
            if num_rows >= GATHERED_ROWS:
                yield pa.concat_tables(fresh).combine_chunks()
                fresh, num_rows = [], 0
        if fresh:
            yield pa.concat_tables(fresh).combine_chunks()

    def num_rows(self, *parts: str) -> int:
        """Rows of one Parquet file, from its footer."""
        with self.fs.open(self.path(*parts), "rb") as file:
            return int(pq.ParquetFile(file).metadata.num_rows)

    def write_drops(self, drops: Iterable[Dropped], stage: StageName) -> None:
        """Keep a stage's dropped rows for audit."""
        self.write_rows(drops, Dropped, *dropped_rows(stage))

    def read_bytes(self, *parts: str) -> bytes | None:
        """A whole file; None where there is none."""
        return bytes(self.fs.cat_file(self.path(*parts))) if self.exists(*parts) else None

    def read_lines(self, *parts: str) -> list[str]:
        """The lines of a JSON Lines file, none where there is no file. Only a line feed ends one: JSON text may hold
        U+2028 and other characters that `str.splitlines` takes for line ends."""
        text = (self.read_bytes(*parts) or b"").decode(errors="replace")
        return [line for line in text.split("\n") if line.strip()]

    def exists(self, *parts: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self.fs.exists(self.path(*parts)))

    def remove(self, *parts: str) -> None:
        """Delete a file or folder that is stale or temporary."""
        if self.exists(*parts):
            self.fs.rm(self.path(*parts), recursive=True)


def written_folders(run_dir: RunDir) -> tuple[str, ...]:
    """Folders of this machine that work on a run writes to: its own, that for temporary files, the cache of models."""
    own = (run_dir.path(),) if run_dir.is_local else ()
    return (*own, tempfile.gettempdir(), str(cache_dir()))


def open_run(uri: str) -> RunDir:
    """An existing run directory.

    Raises:
        InputError: there is none.
    """
    run_dir = RunDir(uri)
    if not run_dir.exists(*RECIPE):
        known = sorted(str(path.parent) for path in Path("runs").glob("*/recipe.json"))
        remedy = f"known here: {', '.join(known)}" if known else "start one with distill run"
        raise InputError(f"{uri} is no run directory -> {remedy}")
    return run_dir


def rows_table(rows: Iterable[Any], row_type: type) -> pa.Table:
    """Dataclass rows as a table with the type's explicit schema."""
    return pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=arrow_schema(row_type))


def own_folder(kind: str, run_dir: RunDir) -> Path:
    """Where this user keeps files of one kind about a run that is in a bucket: a folder for each run."""
    return cache_dir().with_name(kind) / hashlib.sha256(run_dir.address.encode()).hexdigest()[:16]


def log_path(run_dir: RunDir) -> Path:
    """Where libraries' messages go: into the run directory where it is local, else into a folder of this user's for
    this run."""
    return run_dir.local_path(*LIBRARY_LOG) if run_dir.is_local else own_folder("logs", run_dir) / LIBRARY_LOG[-1]


def event_path(run_dir: RunDir) -> Path:
    """Where the run's events go, beside what libraries print."""
    return log_path(run_dir).with_name(EVENT_LOG[-1])
