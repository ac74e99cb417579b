"""Trackers, where the recipe asks for them: they show the values of `metrics.jsonl`, and the scores in the end.

A tracker that fails is disabled for the rest of the cell, with a line in the cell's log; training goes on.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from distill.core.errors import InputError
from distill.core.run_dir import MLFLOW, TRACKED, Parts, Training, own_folder
from distill.train.worker.checkpoint import writing
from distill.train.worker.logged_run import ARGUMENTS, Cell, LoggedRun, OpenedAs
from distill.train.worker.metrics import StepMetrics

if TYPE_CHECKING:
    from distill.config.train import TrainConfig
    from distill.core.run_dir import RunDir

SHOWN = ("loss", "lr", "grad_norm", "tokens_per_s", "mfu", "memory_gib")
SEND_EVERY_S = 5.0
TENSORBOARD = "tensorboard"
BATCH = 1000
"""Values that MLflow accepts in one request."""
CELL_KEY = "distill.cell_key"
"""Tag by which a resumed cell finds its MLflow run."""


class Tracker(Protocol):
    """Shows values by step."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add the values of a step."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show a table."""

    def close(self) -> None:
        """Write what is still buffered."""


def shown_values(metrics: StepMetrics) -> dict[str, float]:
    """A step's values by the names that trackers show; unknown values are left out."""
    known = {name: getattr(metrics, name) for name in SHOWN}
    values = {name: float(value) for name, value in known.items() if value is not None}
    by_pool = {f"pool_loss/{pool}": loss for pool, loss in metrics.pools.items()}
    of_objective = {f"pairs/{name}": value for name, value in metrics.pairs.items()}
    of_objective |= {f"rewards/{name}": value for name, value in metrics.rewards.items()}
    return values | by_pool | of_objective | {f"match/{name}": value for name, value in metrics.match.items()}


class Trackers:
    """All trackers of one run of theirs: of a cell, in its first worker, or of the scores."""

    def __init__(self, train: TrainConfig, run_dir: RunDir, run: TrackedRun, *, log: Callable[[str], None]) -> None:
        self._log_line, self._name, self._open = log, run.name, dict[str, Tracker]()
        for name in train.trackers:
            if opened := self._guarded(name, partial(open_tracker, name, train, run_dir, run)):
                self._open[name] = opened

    def log(self, metrics: StepMetrics) -> None:
        """Show a step."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.log, metrics.step, shown_values(metrics)))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show a table."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.table, title, columns, rows))

    def close(self) -> None:
        """The cell has ended."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.close)

    def _guarded(self, name: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except faults() as error:
            self._open.pop(name, None)
            self._log_line(f"{name} is disabled for the rest of {self._name}: {type(error).__name__}: {error}")
            return None


class TrackedRun(NamedTuple):
    """A run as trackers know it."""

    name: str
    key: str
    """What decides its values: opened again under it, it goes on."""
    files: Parts
    """Folder of the run directory for its files."""

    @classmethod
    def of_cell(cls, cell: str, key: str) -> TrackedRun:
        """The run of a training cell."""
        return cls(cell, key, Training(cell).folder)


FAULTS = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ImportError, sqlite3.Error)
"""What a tracker's library may raise, on any of its ways: no fault of theirs may cost a training."""
OWN_FAULTS = {"mlflow": "mlflow.exceptions.MlflowException", "wandb": "wandb.errors.Error", "httpx": "httpx.HTTPError"}
"""Library -> its own error, which is none of `FAULTS`."""


def faults() -> tuple[type[Exception], ...]:
    """What the libraries that are installed may raise."""
    found = [path.rsplit(".", 1) for name, path in OWN_FAULTS.items() if find_spec(name)]
    return (*FAULTS, InputError, *(getattr(import_module(module), error) for module, error in found))


def open_tracker(name: str, train: TrainConfig, run_dir: RunDir, run: TrackedRun) -> Tracker:
    """A tracker by its name."""
    project = Path(run_dir.root).name
    if name == "tensorboard":
        return TensorBoard(run_dir, run.files)
    if name in ARGUMENTS:
        folder = run_dir.local_path(*TRACKED) if run_dir.is_local else own_folder("trackers", run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return LoggedRun(name, OpenedAs(project, run.name, run.key, str(folder)))
    uri = train.tracking_uri or run_dir.local_path(*MLFLOW).absolute().as_uri()
    return MLflow(uri, experiment=project, run=run)


def show(value: Cell) -> str:
    """A table's value as text."""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


class TensorBoard:
    """An event file in the cell's folder: `tensorboard --logdir RUN/train`."""

    def __init__(self, run_dir: RunDir, files: Parts) -> None:
        from tensorboardX import SummaryWriter

        self._upload = ExitStack()  # on remote storage the file appears when the cell has ended
        folder = self._upload.enter_context(writing(run_dir, *files, TENSORBOARD))
        self._writer = SummaryWriter(str(folder), flush_secs=10)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add the values of a step. A step that a resumed cell repeats replaces the one before."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show a table, as text."""
        lines = [list(columns), ["---"] * len(columns), *([show(value) for value in row] for row in rows)]
        self._writer.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in lines))

    def close(self) -> None:
        """Write what is still buffered."""
        self._writer.close()
        self._upload.close()


class MLflow:
    """A run of an MLflow server or folder, one per cell; the experiment has the run directory's name."""

    def __init__(self, uri: str, *, experiment: str, run: TrackedRun) -> None:
        # An unreachable server costs seconds, not the quarter of an hour that MLflow would retry.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        earlier = self._client.search_runs([experiment_id], f"tags.`{CELL_KEY}` = '{run.key}'", max_results=1)
        tags = {CELL_KEY: run.key}
        own = earlier[0] if earlier else self._client.create_run(experiment_id, run_name=run.name, tags=tags)
        self._run_id = own.info.run_id
        self._buffer: list[Any] = []
        self._sent_at = 0.0

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add the values of a step; they are sent every few seconds."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._buffer += [Metric(name, value, now_ms, step) for name, value in values.items()]
        if time.monotonic() - self._sent_at > SEND_EVERY_S:
            self._send()

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show a table, as an artifact that replaces one of its name."""
        table = {"columns": list(columns), "data": [list(row) for row in rows]}
        self._client.log_dict(self._run_id, table, f"{name}.json")

    def _send(self) -> None:
        for start in range(0, len(self._buffer), BATCH):
            self._client.log_batch(self._run_id, self._buffer[start : start + BATCH])
        self._buffer, self._sent_at = [], time.monotonic()

    def close(self) -> None:
        """Send the rest and mark the run as finished."""
        self._send()
        self._client.set_terminated(self._run_id)
