"""A disk that is full while a cell trains: said by the worker, not taken for an error of its own, nothing is whole."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from distill.core.errors import FullDiskError, StageError
from distill.core.run_dir import RunDir, Training
from distill.train import attempts
from distill.train.attempts import Lease, failure_recorder
from distill.train.train_cell import _last_line
from distill.train.worker import loop, process
from distill.train.worker.async_checkpoint import AsyncCheckpointer
from distill.train.worker.checkpoint import Checkpoints, writing
from tests.fixtures.small_disk import BYTES, small_disk

CELL = "s@rl"
SAID = "no room is left on the disk of /x: /x/file could not be written -> make room there"


@pytest.fixture
def full_run(tmp_path: Path) -> Iterator[RunDir]:
    """A run directory on a small disk."""
    with small_disk(tmp_path / "disk") as folder:
        yield RunDir(str(folder))


def weights(num_bytes: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.zeros(num_bytes, dtype=torch.uint8).random_()}


def test_weights_that_do_not_fit_are_said_whatever_the_library_says(full_run: RunDir) -> None:
    for save in (save_file, lambda tensors, path: torch.save(tensors, path)):
        with pytest.raises(FullDiskError, match="train/s@rl/model could not be written -> make room there"):  # noqa: SIM117
            with writing(full_run, *Training(CELL).model) as folder:
                save(weights(2 * BYTES), folder / "model.safetensors")
        assert not full_run.exists(*Training(CELL).model), "a part of it would be all that the disk holds"


def checkpointer(run_dir: RunDir, num_bytes: int) -> AsyncCheckpointer:
    """Of an engine whose state has so many bytes."""
    engine: Any = SimpleNamespace(checkpoint_engine=SimpleNamespace(save=torch.save))

    def save_checkpoint(folder: str, **_: Any) -> None:
        engine.checkpoint_engine.save(weights(num_bytes), f"{folder}/state.pt")

    engine.save_checkpoint = save_checkpoint
    lease = Lease(run_dir, CELL, "one")
    lease.claim()
    return AsyncCheckpointer(engine, run_dir, Checkpoints(run_dir, CELL, "key"), rank=0, num_workers=1, lease=lease)


def save_checkpoint(run_dir: RunDir, step: int, num_bytes: int) -> None:
    """What an attempt does."""
    saving = checkpointer(run_dir, num_bytes)
    try:
        saving.save(step, exclude_frozen=False)
        saving.wait()
    finally:
        saving.close()


def test_a_checkpoint_that_does_not_fit_is_said_and_the_one_before_is_continued_from(full_run: RunDir) -> None:
    checkpoints = Checkpoints(full_run, CELL, "key")
    save_checkpoint(full_run, 2, BYTES // 4)
    with pytest.raises(FullDiskError, match=r"step-00000004/state\.pt could not be written"):
        save_checkpoint(full_run, 4, BYTES)
    gc.collect()  # the process ends, and gives back the file that it has open
    assert checkpoints.complete_steps() == [2] and checkpoints.newest_intact() == 2
    save_checkpoint(full_run, 4, BYTES // 4)
    assert checkpoints.newest_intact() == 4, "the same command goes on where there is room again"


def worked(monkeypatch: pytest.MonkeyPatch, run_dir: RunDir, error: Exception) -> None:
    """A worker whose training ends with an error."""

    def _train(*_: Any) -> None:
        raise error

    monkeypatch.setattr(loop, "_train", _train)
    monkeypatch.setattr(loop, "prepare_process", lambda job: None)
    monkeypatch.setattr(loop, "rank", lambda: 0)
    loop.train_worker({"job": SimpleNamespace(cell=CELL, run_uri=run_dir.uri, num_workers=2, key="key")})


def test_a_worker_without_room_ends_all_workers_and_any_other_error_is_the_cells_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_dir = RunDir("memory://full")
    for error in (FullDiskError(SAID), OSError(28, "No space left on device", "/x/file")):
        with pytest.raises(FullDiskError, match="make room there"):
            worked(monkeypatch, run_dir, error)
        assert not run_dir.exists(*Training(CELL).outcome), "the other worker would wait for this one without end"
    worked(monkeypatch, run_dir, StageError("the loss is nan"))
    assert b"the loss is nan" in (run_dir.read_bytes(*Training(CELL).outcome) or b"")


def test_a_cell_without_room_is_named_by_the_sentence_alone() -> None:
    assert _last_line(f"Traceback ...\n  File x\ndistill.core.errors.FullDiskError: {SAID}\n") == SAID
    assert _last_line("Traceback ...\nRuntimeError: other") == "RuntimeError: other"


def test_a_log_without_room_hides_no_error_and_stops_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("a device of Linux")
    monkeypatch.setattr(process, "rank", lambda: 0)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, device.open("w", buffering=1))
    with pytest.raises(FullDiskError, match="make room"), process.worker_log(cast(Any, None), RunDir("memory://log")):
        process.log_line("round 1")
        raise FullDiskError(SAID)
    monkeypatch.undo()


def test_a_lost_attempt_that_cannot_be_recorded_is_followed_by_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def record_event(*_: Any, **__: Any) -> None:
        raise FullDiskError(SAID)

    monkeypatch.setattr(attempts, "record_event", record_event)
    failure_recorder("memory://lost", CELL).after_exception(None, {0: RuntimeError("died")})
