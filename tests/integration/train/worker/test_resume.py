"""A cell's worker code on real DeepSpeed, without Ray: stopped and damaged wherever it hurts, then begun anew."""

import threading
from pathlib import Path

import pytest
import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from distill.config.students import FullTune, LoraTune, StudentConfig
from distill.config.train import TrainConfig
from distill.core.errors import FullDiskError, StageError
from distill.core.run_dir import RunDir
from distill.core.schema import Example, Message
from distill.models.resolve import load_tokenizer
from distill.train.attempts import Lease, SupersededError
from distill.train.layout import Layout
from distill.train.worker.checkpoint import Checkpoints
from distill.train.worker.deepspeed_engine import build_engine, build_loss
from distill.train.worker.job import CellJob
from distill.train.worker.loop import TrainingCell
from distill.train.worker.metrics import StepMetrics, read_metrics
from distill.train.worker.process import prepare_process
from distill.train.worker.rows import load_rows

NUM_STEPS = 8
TUNES = {"full": FullTune(learning_rate=3e-3), "lora": LoraTune(rank=4, dropout=0.1, learning_rate=2e-2)}


class Stopped(Exception):
    """Stands for the end of the process: nothing of the attempt runs on."""


def examples() -> list[Example]:
    return [
        Example(
            f"t{n}", f"p{n}", "mix", ("long", "short")[n % 2], "long",
            [Message("user", f"{n}?"), Message("assistant", f"It is {n + 1}." + " So." * (n % 5))],
        )
        for n in range(14)
    ]  # fmt: skip


def job_for(run_dir: RunDir, model: Path, tune: str) -> CellJob:
    if not run_dir.shards("mix"):
        run_dir.write_rows(examples(), Example, "mix", "part-0.parquet")
    return CellJob(
        cell="cell", key="key", run_uri=run_dir.uri, model_path=str(model), shards=tuple(run_dir.shards("mix")),
        student=StudentConfig(name="s", model="m", tune=TUNES[tune], micro_batch_size=2, zero_stage=0),
        train=TrainConfig(num_epochs=4, batch_size=8, max_length=200, checkpoint_every_steps=3),
        seed=0, device="cpu", threads=1, layout=Layout(zero_stage=0, micro_batch_size=2), num_workers=1,
    )  # fmt: skip


class Attempt(TrainingCell):
    """One attempt at the cell, which ends before a step, or whose weights break before one."""

    stop_before, break_before, lose_before = -1, -1, -1

    def step(self, step: int) -> StepMetrics:
        if step == self.stop_before:
            raise Stopped
        if step == self.lose_before:
            Lease(self.run_dir, "cell", "another").claim()
        if step == self.break_before:
            next(self.engine.module.model.parameters()).data.fill_(float("nan"))
        return super().step(step)


def lines_of(cell: Attempt, stop: int = -1) -> list[StepMetrics]:
    """Run an attempt, which may stop before a step; its metrics."""
    cell.stop_before = stop
    cell.run()
    return read_metrics(cell.run_dir, "cell")


def attempt(
    run_dir: RunDir, model: Path, tune: str, *, stop: int = -1, broken: int = -1, lost: int = -1
) -> list[StepMetrics]:
    job = job_for(run_dir, model, tune)
    prepare_process(job)
    rows = load_rows(job, run_dir, load_tokenizer(str(model)))
    cell = Attempt(job, run_dir, build_engine(job, build_loss(job)), rows, padding=1)
    cell.stop_before, cell.break_before, cell.lose_before = stop, broken, lost
    cell.run()
    return read_metrics(run_dir, "cell")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, list[StepMetrics]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return {tune: attempt(RunDir(str(folder / tune)), model, tune) for tune in TUNES}


def curve(lines: list[StepMetrics]) -> list[tuple[int, float, float, float]]:
    return [(line.step, line.loss, line.lr, line.grad_norm) for line in lines]


@pytest.mark.parametrize("tune", TUNES)
def test_a_cell_stopped_at_any_step_continues_on_the_very_same_curve(
    tmp_path: Path, model: Path, undisturbed: dict[str, list[StepMetrics]], tune: str
) -> None:
    assert len(undisturbed[tune]) == NUM_STEPS
    for stop in range(NUM_STEPS):
        run_dir = RunDir(str(tmp_path / str(stop)))
        with pytest.raises(Stopped):
            attempt(run_dir, model, tune, stop=stop)
        assert curve(attempt(run_dir, model, tune)) == curve(undisturbed[tune]), f"stopped before step {stop}"


def test_an_unreadable_newest_checkpoint_is_skipped_for_the_one_before_and_the_curve_is_the_same(
    tmp_path: Path, model: Path, undisturbed: dict[str, list[StepMetrics]]
) -> None:
    run_dir = RunDir(str(tmp_path))
    with pytest.raises(Stopped):
        attempt(run_dir, model, "full", stop=7)
    checkpoints = Checkpoints(run_dir, "cell", "key")
    assert checkpoints.complete_steps() == [6, 3]
    damaged = max(Path(run_dir.path(*checkpoints.parts(6))).rglob("*.pt"), key=lambda file: file.stat().st_size)
    with damaged.open("r+b") as file:
        file.seek(damaged.stat().st_size // 2)
        file.write(b"\x00\xff" * 32)
    assert checkpoints.newest_intact() == 3
    assert curve(attempt(run_dir, model, "full")) == curve(undisturbed["full"])


def test_a_loss_that_is_no_number_stops_the_cell_names_the_rows_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, model: Path, undisturbed: dict[str, list[StepMetrics]]
) -> None:
    run_dir = RunDir(str(tmp_path))
    with pytest.raises(StageError, match=r"nan at step 5 of 8 \(rows t\d+, .*last checkpoint is kept"):
        attempt(run_dir, model, "full", broken=4)
    assert Checkpoints(run_dir, "cell", "key").newest_intact() == 3
    assert [line.step for line in read_metrics(run_dir, "cell")] == [1, 2, 3, 4]
    assert curve(attempt(run_dir, model, "full")) == curve(undisturbed["full"])


def test_a_superseded_attempt_writes_nothing_more_to_its_cell(
    tmp_path: Path, model: Path, undisturbed: dict[str, list[StepMetrics]]
) -> None:
    run_dir = RunDir(str(tmp_path))
    with pytest.raises(SupersededError, match="another has claimed the cell"):
        attempt(run_dir, model, "full", lost=4)
    assert Checkpoints(run_dir, "cell", "key").complete_steps() == [3]
    assert [line.step for line in read_metrics(run_dir, "cell")] == [1, 2, 3]
    assert curve(attempt(run_dir, model, "full")) == curve(undisturbed["full"])


def test_resuming_needs_no_random_state_of_the_process(
    tmp_path: Path, model: Path, undisturbed: dict[str, list[StepMetrics]]
) -> None:
    run_dir = RunDir(str(tmp_path))
    with pytest.raises(Stopped):
        attempt(run_dir, model, "lora", stop=5)
    torch.manual_seed(123456)
    assert curve(attempt(run_dir, model, "lora")) == curve(undisturbed["lora"])


def test_training_steps_continue_while_a_checkpoint_is_written(
    tmp_path: Path, model: Path, undisturbed: dict[str, list[StepMetrics]], monkeypatch: pytest.MonkeyPatch
) -> None:
    written_after = threading.Event()
    write, step = TorchCheckpointEngine.save, Attempt.step

    def held_write(self: TorchCheckpointEngine, state: object, path: str) -> None:
        assert written_after.wait(timeout=60), "the next step waits for the write"
        write(self, state, path)

    def watched_step(self: Attempt, number: int) -> StepMetrics:
        metrics = step(self, number)
        if number == 3:  # the first step after the first checkpoint
            assert Checkpoints(self.run_dir, "cell", "key").complete_steps() == []
            written_after.set()
        return metrics

    monkeypatch.setattr(TorchCheckpointEngine, "save", held_write)
    monkeypatch.setattr(Attempt, "step", watched_step)
    run_dir = RunDir(str(tmp_path))
    with pytest.raises(Stopped):
        attempt(run_dir, model, "full", stop=7)
    assert Checkpoints(run_dir, "cell", "key").complete_steps() == [6, 3]
    assert curve(attempt(run_dir, model, "full")) == curve(undisturbed["full"])


def test_a_checkpoint_that_cannot_be_written_stops_the_cell_and_leaves_the_one_before(
    tmp_path: Path, model: Path, undisturbed: dict[str, list[StepMetrics]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = TorchCheckpointEngine.save

    def full_disk(self: TorchCheckpointEngine, state: object, path: str) -> None:
        if "00000006" in path:
            raise OSError(28, "No space left on device", path)
        write(self, state, path)

    run_dir = RunDir(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(TorchCheckpointEngine, "save", full_disk)
        with pytest.raises(FullDiskError, match=r"step-00000006.* could not be written -> make room there"):
            attempt(run_dir, model, "full")
    assert Checkpoints(run_dir, "cell", "key").newest_intact() == 3
    assert curve(attempt(run_dir, model, "full")) == curve(undisturbed["full"])
