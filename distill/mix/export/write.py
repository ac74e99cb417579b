"""Writes an export: a folder with a Hugging Face data set or JSON Lines, streamed, and atomic by rename."""

import errno
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill.config.recipe import Recipe
from distill.core.errors import InputError
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, StageName, arm_examples, model_record, pool_shards
from distill.core.schema import content_hash
from distill.mix.export.dataset_card import card, usage
from distill.mix.export.formats import LINE_FORMATS, RENDERED_FORMAT, TABLE_FORMATS, with_options
from distill.mix.export.licences import Source, sources
from distill.mix.export.render import rendered_rows
from distill.mix.export.rows import EXAMPLE_SCHEMA, GROUPED_SCHEMA, arm_batches, example_rows, grouped_rows
from distill.models.resolve import load_tokenizer

SHARD_ROWS = 50_000
GROUP_ROWS = 1_000

_ELSEWHERE = "name another folder with --to"
WRITE_FAULTS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), f"no write access there -> {_ELSEWHERE}"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"there is no room left -> make room, or {_ELSEWHERE}"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), f"a part of this path is a file -> {_ELSEWHERE}"),
    errno.ENAMETOOLONG: f"the name is too long -> {_ELSEWHERE}",
}
"""Error number of a folder that cannot be written -> what is wrong, and what helps."""


def export(run_dir: RunDir, recipe: Recipe, mix: str, *, kind: str, target: Path, student: str = "") -> int:
    """Write one arm in one format; returns the number of rows.

    `student`: whose chat template renders the format `text`; empty: the first student's.

    Raises:
        InputError: the run has no such arm or student, the arm is made of pairs, or the target exists or cannot be
            written.
    """
    manifest = require_arm(run_dir, mix)
    refuse_existing(target)
    left_out: Counter[str] = Counter()
    has_options = kind != RENDERED_FORMAT and sets_options(run_dir, mix)
    with atomic_folder(target) as folder:
        if kind in LINE_FORMATS:
            num_rows = write_lines(folder / "train.jsonl", line_rows(run_dir, mix, kind, has_options=has_options))
        elif kind == RENDERED_FORMAT:
            tokenizer = load_tokenizer(student_folder(run_dir, recipe, student))
            columns = ["messages", "template_options"]
            rows = (row for batch in arm_batches(run_dir, mix, columns) for row in batch)
            num_rows = write_lines(folder / "train.jsonl", rendered_rows(rows, tokenizer, left_out))
        else:
            num_rows = write_tables(folder / "data", run_dir, mix, manifest, kind)
        found = list(sources(recipe, model_folders(run_dir)))
        text = card(recipe, mix, manifest, found, num_rows)
        text += usage(recipe, mix, kind, left_out, sets_options=has_options)
        (folder / "README.md").write_text(text if kind in TABLE_FORMATS else without_shards(text), encoding="utf-8")
    return num_rows


def refuse_existing(target: Path) -> None:
    """That nothing is at the place yet.

    Raises:
        InputError: something is.
    """
    if os.path.exists(target):  # Path.exists raises where a folder above may not be entered
        raise InputError(f"{target} exists already -> name another folder with --to, or remove it")


def require_arm(run_dir: RunDir, mix: str) -> Manifest:
    """The manifest of the mix, with an arm that can be exported.

    Raises:
        InputError: the run has no such arm, or it is made of pairs.
    """
    manifest = run_dir.read_manifest(StageName.MIX)
    if manifest is None or mix not in manifest.details["mixes"]:
        known = ", ".join(manifest.details["mixes"]) if manifest else "none yet; finish the run with distill run first"
        raise InputError(f"{run_dir.uri} has no mix {mix!r} -> it has: {known}")
    if "pairs" in manifest.details["mixes"][mix]:
        what = f"{mix} is made of pairs, and every format here is of traces to imitate"
        raise InputError(f"{what} -> its rows are in {run_dir.address_of(*arm_examples(mix))} (column side)")
    return manifest


def student_folder(run_dir: RunDir, recipe: Recipe, student: str) -> str:
    """The folder of a student's model, the first student's where none is named.

    Raises:
        InputError: there is no such student, or its model was not resolved yet.
    """
    models, folders = {one.name: one.model for one in recipe.students}, model_folders(run_dir)
    name = student or next(iter(models))
    if name not in models:
        raise InputError(f"there is no student {name!r} -> --student {', '.join(models)}")
    if models[name] not in folders:
        raise InputError(f"the model of student {name!r} is not on this machine yet -> distill run first")
    return folders[models[name]]


def line_rows(run_dir: RunDir, mix: str, kind: str, *, has_options: bool) -> Iterator[dict[str, Any]]:
    """An arm's examples in one of `LINE_FORMATS`; `has_options`: any of them sets a variable of the chat template."""
    convert = LINE_FORMATS[kind]
    for batch in arm_batches(run_dir, mix, ["messages", "template_options"]):
        yield from (with_options(row, convert(row)) if has_options else convert(row) for row in batch)


def sets_options(run_dir: RunDir, mix: str) -> bool:
    """Whether any row of an arm sets a variable of the chat template."""
    return any(row["template_options"] for batch in arm_batches(run_dir, mix, ["template_options"]) for row in batch)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line, in UTF-8 without escapes; returns their number."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007 (the last number is the count)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


def write_tables(folder: Path, run_dir: RunDir, mix: str, manifest: Manifest, kind: str) -> int:
    """Write Parquet shards in one of `TABLE_FORMATS`, whose total the manifest knows; returns the number of rows."""
    entry = manifest.details["mixes"][mix]
    if kind == "dataset":
        return write_shards(folder, example_rows(run_dir, mix), EXAMPLE_SCHEMA, entry["rows"])
    folders = sorted(path.rsplit("/", 1)[1] for path in run_dir.matching(*pool_shards("*-*")))
    return write_shards(folder, grouped_rows(run_dir, mix, folders), GROUPED_SCHEMA, entry["prompts"])


def write_shards(folder: Path, rows: Iterator[dict[str, Any]], schema: pa.Schema, total: int) -> int:
    """Write `train-00000-of-0000N.parquet`, each of at most SHARD_ROWS rows in groups of GROUP_ROWS."""
    folder.mkdir(parents=True)
    num_shards, written = max(1, -(-total // SHARD_ROWS)), 0
    for number in range(num_shards):
        path = folder / f"train-{number:05}-of-{num_shards:05}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            own = islice(rows, SHARD_ROWS)
            while part := list(islice(own, GROUP_ROWS)):
                writer.write_table(pa.Table.from_pylist(part, schema=schema))
                written += len(part)
    assert written == total, f"wrote {written} rows, but the manifest counts {total}"
    return written


def without_shards(text: str) -> str:
    """The card for a JSON Lines export."""
    return text.replace("path: data/train-*", "path: train.jsonl")


def export_key(recipe: Recipe, manifest: Manifest, mix: str, kind: str, student: str, found: Sequence[Source]) -> str:
    """Hash of all that decides an exported folder. `found`: its sources."""
    return content_hash("export", recipe.model_dump(mode="json"), asdict(manifest), mix, kind, student, list(found))


def model_folders(run_dir: RunDir) -> dict[str, str]:
    """Model -> the folder that the run resolved it to; where another machine has that, its address in the storage."""
    found = {}
    for path in run_dir.matching(*model_record("*")):
        model = json.loads(run_dir.fs.cat_file(path))["model"]
        name = str(path).rsplit("/", 1)[1].removesuffix(".json")
        found[name] = model["path"] if Path(model["path"]).is_dir() else model.get("published") or model["path"]
    return found


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `target` once everything in it is written.

    Raises:
        InputError: the place cannot be written to, or has no room.
    """
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        if error.errno not in WRITE_FAULTS:  # a fault of what is read
            raise
        raise InputError(f"{target}: {WRITE_FAULTS[error.errno]}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
