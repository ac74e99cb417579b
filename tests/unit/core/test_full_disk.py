"""A full disk: a sentence with place and remedy, nothing half-written, and the same write works once there is room."""

import errno
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distill.core.errors import FullDiskError, StageError
from distill.core.full_disk import full_disk_said
from distill.core.run_dir import RunDir, written_folders
from tests.fixtures.small_disk import BYTES, small_disk

SCHEMA = pa.schema([("value", pa.float64())])


@pytest.fixture
def full_run(tmp_path: Path) -> Iterator[RunDir]:
    """A run directory on a small disk."""
    with small_disk(tmp_path / "disk") as folder:
        yield RunDir(str(folder / "run"))


def random_bytes(count: int) -> bytes:
    return np.random.default_rng(0).bytes(count)


def write_table(run_dir: RunDir, num_rows: int) -> None:
    with run_dir.table_writer(SCHEMA, "mix", "arm.parquet") as writer:
        for part in np.array_split(np.random.default_rng(0).random(num_rows), 10):
            writer.write_table(pa.table([pa.array(part)], schema=SCHEMA))


def names(run_dir: RunDir, *parts: str) -> list[str]:
    return sorted(file.name for file in run_dir.local_path(*parts).iterdir())


def test_a_file_that_does_not_fit_is_said_with_place_and_remedy_and_the_old_one_stays(full_run: RunDir) -> None:
    full_run.write_bytes(b"before", "train", "s@mix", "metrics.jsonl")
    with pytest.raises(FullDiskError) as raised:
        full_run.write_bytes(random_bytes(2 * BYTES), "train", "s@mix", "metrics.jsonl")
    folder = full_run.local_path("train", "s@mix")
    assert str(raised.value) == (
        f"no room is left on the disk of {folder}: {folder}/metrics.jsonl could not be written -> make room there "
        f"(df -h {folder}), then run the same command again; it goes on from what is on disk"
    )
    assert isinstance(raised.value, StageError) and str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert full_run.read_bytes("train", "s@mix", "metrics.jsonl") == b"before"
    assert names(full_run, "train", "s@mix") == ["metrics.jsonl"], "no part of the new one fills the disk"
    full_run.write_bytes(b"after", "train", "s@mix", "metrics.jsonl")


def test_a_table_that_does_not_fit_is_not_there_and_is_written_once_there_is_room(full_run: RunDir) -> None:
    filling = full_run.local_path("filling")
    full_run.write_bytes(random_bytes(BYTES - (64 << 10)), "filling")
    with pytest.raises(FullDiskError, match=r"mix/arm\.parquet could not be written -> make room there"):
        write_table(full_run, 50_000)
    assert names(full_run, "mix") == [] and full_run.shards("mix") == []
    filling.unlink()
    write_table(full_run, 50_000)
    assert full_run.num_rows("mix", "arm.parquet") == 50_000


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "no room is left on"), (errno.EDQUOT, "your quota is used up on")]
)
def test_a_disk_that_fills_up_within_a_write_leaves_nothing_of_it(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def full(path: str, data: bytes) -> None:
        Path(path).write_bytes(data[:1])
        raise OSError(number, "as the system says it")

    monkeypatch.setattr(run_dir.fs, "pipe_file", full)
    with pytest.raises(FullDiskError, match=f"{words} the disk of {run_dir.local_path('mix')}"):
        run_dir.write_bytes(b"after", "mix", "file")
    assert names(run_dir, "mix") == []


def test_errors_with_another_cause_pass(tmp_path: Path) -> None:
    for error in (PermissionError(errno.EACCES, "no"), OSError("not found on the hub"), ValueError("a bug")):
        with pytest.raises(type(error)) as raised, full_disk_said(str(tmp_path)):
            raise error
        assert raised.value is error


def test_errors_of_libraries_are_known_by_their_words_or_by_a_disk_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(FullDiskError), full_disk_said(str(tmp_path), errors=(RuntimeError,)):
        raise safetensors
    torch = RuntimeError("unexpected pos 576 vs 534")
    with pytest.raises(RuntimeError, match="unexpected pos"), full_disk_said(str(tmp_path), errors=(RuntimeError,)):
        raise torch
    monkeypatch.setattr("distill.core.full_disk.free_bytes", lambda path: 0)
    with pytest.raises(FullDiskError), full_disk_said(str(tmp_path), errors=(RuntimeError,)):
        raise torch


def test_of_several_folders_the_file_that_the_error_names_or_the_fullest_disk_is_named(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = written_folders(run_dir)
    assert len(folders) == 3 and folders[0] == run_dir.path()
    assert written_folders(RunDir("memory://run")) == folders[1:]
    monkeypatch.setattr("distill.core.full_disk.free_bytes", lambda path: folders.index(path) == 0)
    with pytest.raises(FullDiskError, match=f": {folders[1]} could not be written"), full_disk_said(*folders):
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(FullDiskError, match=": /elsewhere/file could not"), full_disk_said(*folders):
        raise OSError(errno.ENOSPC, "full", "/elsewhere/file")
