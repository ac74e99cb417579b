"""One cell: a student x mix x seed, one Ray Train run with DeepSpeed.

`RUN/train/CELL/` holds `model/`, `adapter/` (LoRA), `metrics.jsonl`, `attempts.jsonl`, the workers' logs and the
manifest, written last. The fleet of all cells is in `distill.train.cell_queue`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from cluster.placement import Resources
from distill.core.errors import StageError
from distill.core.run_dir import Manifest, RunDir, now
from distill.train.attempts import loss_recorder
from distill.train.layout import Device, Layout, told_layout
from distill.train.worker.checkpoint import Checkpoints

if TYPE_CHECKING:
    from ray.train import TrainingFailedError

    from distill.config.mix import MergeConfig
    from distill.config.recipe import Recipe
    from distill.config.students import StudentConfig
    from distill.config.train import TrainConfig
    from distill.models.shape import ModelShape
    from distill.train.worker.job import CellJob
    from distill.train.worker.loop import Outcome


@dataclass(frozen=True)
class Cell:
    """One student to be trained. Evaluation and serving call it by its name."""

    name: str
    student: StudentConfig
    mix: str
    """The arm's name."""
    seed: int
    merge: MergeConfig | None = None
    """Of an arm that is merged, not trained."""


@dataclass(frozen=True)
class CellWork:
    """A cell with what it is trained from, and the key that its manifest will carry."""

    cell: Cell
    model_path: str
    shards: tuple[str, ...]
    """Parquet files of `Example` rows, as the run directory's file system names them."""
    key: str
    held_out: tuple[str, ...] = ()
    """Files with rows that are not trained on: the loss on them is measured."""
    early_shards: tuple[str, ...] = ()
    """Files with those of the rows that are trained on first (`train.early_prompts`)."""
    is_early: bool = False
    """Only these are there yet: train on them, keep a checkpoint, and export nothing."""
    layout: Layout | None = None
    """How it is laid out on its workers; absent: as its student says."""
    num_workers: int | None = None
    """Absent: as its student says."""
    shape: ModelShape | None = None
    """Sizes of the model, for FLOPs; absent: none are counted."""
    cost: float | None = None
    """How long it takes, in a unit that all cells of the fleet share; absent: by the bytes of weights and rows."""

    @property
    def settled_layout(self) -> Layout:
        """The layout, told or chosen."""
        return self.layout or told_layout(self.cell.student)

    @property
    def settled_workers(self) -> int:
        """Workers, told or lent."""
        return self.num_workers or self.cell.student.num_workers


def cells(recipe: Recipe) -> tuple[Cell, ...]:
    """All cells of a recipe that are trained."""
    return tuple(
        Cell(cell_name(recipe, student.name, mix.name, seed), student, mix.name, seed)
        for student, mix, seed in product(recipe.students, recipe.mixes, recipe.train.seeds)
        if recipe.takes(student.name, mix.name)
    )


def merged_cells(recipe: Recipe) -> tuple[Cell, ...]:
    """Those that are merged from trained ones."""
    return tuple(
        Cell(cell_name(recipe, student.name, merge.name, seed), student, merge.name, seed, merge)
        for student, merge, seed in product(recipe.students, recipe.merges, recipe.train.seeds)
        if recipe.takes(student.name, merge.name)
    )


def all_cells(recipe: Recipe) -> tuple[Cell, ...]:
    """Trained and merged cells: what is evaluated and served."""
    return (*cells(recipe), *merged_cells(recipe))


def cell_name(recipe: Recipe, student: str, arm: str, seed: int) -> str:
    """What a cell is called. The seed is part of the name only where there are several."""
    return f"{student}@{arm}" + (f"@{seed}" if len(recipe.train.seeds) > 1 else "")


# One cell


def train_cell(work: CellWork, *, train: TrainConfig, run_dir: RunDir, device: Device, threads: int = 1) -> Manifest:
    """Train one cell to the end, continuing where an earlier attempt stopped. Ray must be connected.

    Raises:
        StageError: It failed for good; the message names the cause and the log.
    """
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    started = time.monotonic()
    name = work.cell.name
    _clear_other_attempts(work, run_dir)
    job = _cell_job(work, train=train, run_dir=run_dir, device=device, threads=threads)
    try:
        _trainer(job, run_dir).fit()
    except TrainingFailedError as error:
        raise StageError(f"{name}: {_cause(error)}; log: {_log_path(run_dir, name)}") from error
    except RayError as error:
        raise StageError(f"{name}: {_last_line(str(error))}; log: {_log_path(run_dir, name)}") from error
    outcome = _read_outcome(run_dir, work)
    if outcome.error:
        raise StageError(f"{outcome.error}; log: {_log_path(run_dir, name)}")
    manifest = _manifest(work, outcome, wall_s=time.monotonic() - started)
    run_dir.remove("train", name, "ray")
    if not work.is_early:
        run_dir.write_manifest(manifest, "train", name)
        Checkpoints(run_dir, name, work.key).remove()
    return manifest


def _clear_other_attempts(work: CellWork, run_dir: RunDir) -> None:
    """An attempt with another key left other weights and metrics; one with this key is continued."""
    path = run_dir.path("train", work.cell.name, "key.json")
    found = json.loads(run_dir.fs.cat_file(path)) if run_dir.fs.exists(path) else None
    if found != work.key:
        run_dir.remove("train", work.cell.name)
        run_dir.write_bytes(json.dumps(work.key).encode(), "train", work.cell.name, "key.json")
    run_dir.remove("train", work.cell.name, "outcome.json")


def _cell_job(work: CellWork, *, train: TrainConfig, run_dir: RunDir, device: Device, threads: int) -> CellJob:
    from distill.train.worker.job import CellJob

    return CellJob(
        cell=work.cell.name,
        key=work.key,
        run_uri=run_dir.address,
        model_path=work.model_path,
        shards=work.shards,
        early_shards=work.early_shards,
        held_out=work.held_out,
        is_early=work.is_early,
        student=work.cell.student,
        train=train,
        seed=work.cell.seed,
        device=device,
        threads=threads,
        layout=work.settled_layout,
        num_workers=work.settled_workers,
        shape=work.shape,
    )


def _trainer(job: CellJob, run_dir: RunDir) -> Any:
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from distill.train.worker.loop import train_worker

    worker = worker_resources(job.device, job.threads, job.student.gpu)
    return TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="gloo" if job.device == "cpu" else None),
        scaling_config=ScalingConfig(
            num_workers=job.num_workers,
            use_gpu=job.device == "gpu",
            resources_per_worker=worker.bundle,
        ),
        run_config=RunConfig(
            name=job.cell,
            # Ray's own notes on the workers; its way to a bucket would not go by our variables.
            storage_path=run_dir.path("train", job.cell, "ray"),
            storage_filesystem=None if run_dir.is_local else PyFileSystem(FSSpecHandler(run_dir.fs)),
            failure_config=FailureConfig(max_failures=job.train.max_failures),
            callbacks=[loss_recorder(job.run_uri, job.cell)],
        ),
    )


def worker_resources(device: Device, threads: int, gpu: str = "") -> Resources:
    """What one training worker reserves. `gpu`: kind of its GPU; empty for any."""
    return Resources(cpus=1, gpus=1, gpu=gpu) if device == "gpu" else Resources(cpus=threads)


def _read_outcome(run_dir: RunDir, work: CellWork) -> Outcome:
    from distill.train.worker.loop import OUTCOME, Outcome

    path = run_dir.path("train", work.cell.name, OUTCOME)
    if not run_dir.fs.exists(path):
        raise StageError(f"{work.cell.name}: ended without a result; log: {_log_path(run_dir, work.cell.name)}")
    return Outcome(**json.loads(run_dir.fs.cat_file(path)))


def _manifest(work: CellWork, outcome: Outcome, *, wall_s: float) -> Manifest:
    seconds = dict(outcome.details["seconds"])
    seconds["start_up"] = round(wall_s - sum(seconds.values()), 2)
    return Manifest(
        stage="train",
        key=work.key,
        rows_in=outcome.rows_in,
        rows_out=outcome.rows_out,
        drops=outcome.drops,
        wall_s=round(wall_s, 2),
        finished_at=now(),
        details={
            "cell": work.cell.name,
            "student": work.cell.student.name,
            "mix": work.cell.mix,
            "seed": work.cell.seed,
            "resources": asdict(work.settled_layout) | {"num_workers": work.settled_workers},
            **outcome.details,
            "seconds": seconds,
        },
    )


def _cause(error: TrainingFailedError) -> str:
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    return "; ".join(dict.fromkeys(_last_line(str(failure)) for failure in failures.values())) or _last_line(str(error))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _log_path(run_dir: RunDir, name: str) -> str:
    return run_dir.path("train", name, "log-rank0.txt")
