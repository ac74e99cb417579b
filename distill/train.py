"""The student fleet: every student x mix x seed is one cell, one Ray Train run with DeepSpeed.

Cells wait in a queue and start when all their workers fit, longest first. One cell's failure leaves the others alone
and is told at the end. `RUN/train/CELL/` holds `model/`, `adapter/` (LoRA), `metrics.jsonl`, the workers' logs and the
manifest, written last.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.fleet import Job, Placement, Resources, admit, cpus_per_worker, misfits
from distill.errors import StageError
from distill.run_dir import Manifest, RunDir, now
from distill.train_checkpoint import Checkpoints
from distill.train_metrics import read_metrics

if TYPE_CHECKING:
    from ray.train import TrainingFailedError

    from distill.config import Recipe, StudentConfig, TrainConfig
    from distill.train_engine import CellJob
    from distill.train_loop import Outcome

Device = Literal["cpu", "gpu"]

POLL_S = 1.0


@dataclass(frozen=True)
class Cell:
    """One student to be trained. Evaluation and serving call it by its name."""

    name: str
    student: StudentConfig
    mix: str
    seed: int


@dataclass(frozen=True)
class CellWork:
    """A cell with what it is trained from, and the key that its manifest will carry."""

    cell: Cell
    model_path: str
    shards: tuple[str, ...]
    """Parquet files of `Example` rows, as the run directory's file system names them."""
    key: str


@dataclass(frozen=True)
class Progress:
    """How far a cell is. `phase`: starting, training, saving, done, failed."""

    cell: str
    phase: str
    step: int = 0
    num_steps: int = 0
    loss: float | None = None


def cells(recipe: Recipe) -> tuple[Cell, ...]:
    """All cells of a recipe. The seed is part of the name only where there are several."""
    several = len(recipe.train.seeds) > 1
    return tuple(
        Cell(f"{student.name}@{mix.name}" + (f"@{seed}" if several else ""), student, mix.name, seed)
        for student, mix, seed in product(recipe.students, recipe.mixes, recipe.train.seeds)
    )


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
    run_dir.write_manifest(manifest, "train", name)
    Checkpoints(run_dir, name, work.key).remove()
    run_dir.remove("train", name, "ray")
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
    from distill.train_engine import CellJob

    return CellJob(
        cell=work.cell.name,
        key=work.key,
        # Ray Train changes the workers' folder, so local paths must be absolute.
        run_uri=run_dir.root if run_dir.is_local else run_dir.uri,
        model_path=os.path.abspath(work.model_path),
        shards=work.shards,
        student=work.cell.student,
        train=train,
        seed=work.cell.seed,
        device=device,
        threads=threads,
    )


def _trainer(job: CellJob, run_dir: RunDir) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from distill.train_loop import train_worker

    worker = worker_resources(job.device, job.threads)
    return TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="gloo" if job.device == "cpu" else None),
        scaling_config=ScalingConfig(
            num_workers=job.student.num_workers,
            use_gpu=job.device == "gpu",
            resources_per_worker={"CPU": worker.cpus} | ({"GPU": worker.gpus} if worker.gpus else {}),
        ),
        run_config=RunConfig(
            name=job.cell,
            storage_path=f"{job.run_uri.rstrip('/')}/train/{job.cell}/ray",
            failure_config=FailureConfig(max_failures=job.train.max_failures),
        ),
    )


def worker_resources(device: Device, threads: int) -> Resources:
    """What one training worker reserves."""
    return Resources(cpus=1, gpus=1) if device == "gpu" else Resources(cpus=threads)


def _read_outcome(run_dir: RunDir, work: CellWork) -> Outcome:
    from distill.train_loop import OUTCOME, Outcome

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


# The fleet


def train_all(
    works: Sequence[CellWork],
    *,
    train: TrainConfig,
    run_dir: RunDir,
    device: Device,
    report_progress: Callable[[Progress], None] = lambda progress: None,
    nodes: Sequence[Resources] | None = None,
) -> list[Manifest]:
    """Train all cells, as many at once as fit. `nodes`: the machines to fill; the connected cluster's by default.

    Raises:
        StageError: Some cells failed; raised after all others have finished, naming each with its cause and log.
    """
    nodes = cluster_nodes() if nodes is None else nodes
    _quicken_ray_train(len(nodes))
    fleet = _Fleet(works, train=train, run_dir=run_dir, device=device, nodes=nodes)
    fleet.refuse_misfits()
    while fleet.start_next():
        fleet.wait()
        for progress in fleet.progress():
            report_progress(progress)
    fleet.raise_failures()
    return [fleet.finished[work.cell.name] for work in works]


class _Fleet:
    """The cells that wait, run and are done. Each runs in a thread of its own, which only waits for Ray."""

    def __init__(
        self, works: Sequence[CellWork], *, train: TrainConfig, run_dir: RunDir, device: Device,
        nodes: Sequence[Resources],
    ) -> None:  # fmt: skip
        self.train, self.run_dir, self.device, self.nodes = train, run_dir, device, nodes
        self.works = {work.cell.name: work for work in works}
        at_once = min(len(works), train.max_parallel_cells or len(works))
        self.threads = {
            work.cell.name: cpus_per_worker(work.cell.student.num_workers, at_once, sum(node.cpus for node in nodes))
            for work in works
        }
        self.waiting = {work.cell.name: self._job(work) for work in works}
        self.running: dict[str, tuple[Placement, Future[Manifest]]] = {}
        self.finished: dict[str, Manifest] = {}
        self.failed: dict[str, StageError] = {}
        self._reported: dict[str, Progress] = {}

    def _job(self, work: CellWork) -> Job:
        name, student = work.cell.name, work.cell.student
        worker = worker_resources(self.device, self.threads[name])
        return Job(name, worker, student.num_workers, cost=_cost(work, self.run_dir))

    def refuse_misfits(self) -> None:
        """A cell that no waiting would ever let start."""
        found = misfits(self.waiting.values(), self.nodes)
        if found:
            needs = "; ".join(f"{job.name} needs {job.num_workers} x ({job.worker})" for job in found)
            has = ", ".join(map(str, self.nodes))
            raise StageError(f"these cells do not fit the cluster ({has}): {needs}. Lower students.num_workers.")

    def start_next(self) -> bool:
        """Start what fits; whether anything runs."""
        busy = [placement for placement, _ in self.running.values()]
        for placement in admit(self.waiting.values(), busy, self.nodes, self.train.max_parallel_cells):
            name = placement.job.name
            del self.waiting[name]
            self.running[name] = (placement, _in_background(partial(self._run, name)))
        return bool(self.running)

    def _run(self, name: str) -> Manifest:
        return train_cell(
            self.works[name], train=self.train, run_dir=self.run_dir, device=self.device, threads=self.threads[name]
        )

    def wait(self) -> None:
        """Until a cell ends, or it is time to look at the progress."""
        wait([future for _, future in self.running.values()], timeout=POLL_S, return_when=FIRST_COMPLETED)

    def progress(self) -> list[Progress]:
        """What is new since the last call; takes the ended cells out of the running ones."""
        current = [self._progress_of(name, future) for name, (_, future) in list(self.running.items())]
        fresh = [progress for progress in current if self._reported.get(progress.cell) != progress]
        self._reported.update({progress.cell: progress for progress in fresh})
        return fresh

    def _progress_of(self, name: str, future: Future[Manifest]) -> Progress:
        lines = read_metrics(self.run_dir, name)
        step, num_steps, loss = (lines[-1].step, lines[-1].num_steps, lines[-1].loss) if lines else (0, 0, None)
        phase = "starting" if not lines else "saving" if step == num_steps else "training"
        if future.done():
            phase = self._end(name, future)
        return Progress(name, phase, step=step, num_steps=num_steps, loss=loss)

    def _end(self, name: str, future: Future[Manifest]) -> str:
        del self.running[name]
        try:
            self.finished[name] = future.result()
        except StageError as error:
            self.failed[name] = error
            return "failed"
        return "done"

    def raise_failures(self) -> None:
        """One error for all failed cells."""
        if self.failed:
            told = "\n".join(f"  {error}" for error in self.failed.values())
            raise StageError(
                f"{len(self.failed)} of {len(self.works)} cells failed; the others are finished and safe. "
                f"The same command tries them again from their last checkpoints.\n{told}"
            )


def _cost(work: CellWork, run_dir: RunDir) -> float:
    """Bytes of weights times bytes of rows: enough to tell which cell takes longer."""
    weights = sum(file.stat().st_size for file in Path(work.model_path).glob("*.safetensors"))
    return float(weights) * sum(float(run_dir.fs.size(shard)) for shard in work.shards) / work.cell.student.num_workers


def _in_background(call: Callable[[], Manifest]) -> Future[Manifest]:
    """Like an executor's submit, but Ctrl-C does not wait for the thread."""
    future: Future[Manifest] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - not swallowed: result() raises it in the main thread
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def cluster_nodes() -> tuple[Resources, ...]:
    """The live nodes of the connected cluster."""
    import ray

    totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return tuple(Resources(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0)) for total in totals)


def _quicken_ray_train(num_nodes: int) -> None:
    """Small cells would spend much of their time in Ray Train's defaults: a look at the workers every 2 s, and one more
    process per cell that watches for nodes about to be taken away. Settings of the user's own stay."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    if num_nodes == 1:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
