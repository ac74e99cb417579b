"""TensorBoard and MLflow, where the recipe asks for them: they show the values of `metrics.jsonl`.

A tracker that fails is disabled for the rest of the cell, with a line in the cell's log; training goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill.core.errors import InputError
from distill.core.run_dir import MLFLOW, Training
from distill.train.worker.checkpoint import writing
from distill.train.worker.metrics import StepMetrics

if TYPE_CHECKING:
    from distill.config.train import TrainConfig
    from distill.core.run_dir import RunDir

SHOWN = ("loss", "lr", "grad_norm", "tokens_per_s", "mfu", "memory_gib")
SEND_EVERY_S = 5.0
BATCH = 1000
"""Values that MLflow accepts in one request."""
CELL_KEY = "distill.cell_key"
"""Tag by which a resumed cell finds its MLflow run."""


class Tracker(Protocol):
    """Shows values by step."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add the values of a step."""

    def close(self) -> None:
        """Write what is still buffered."""


def shown_values(metrics: StepMetrics) -> dict[str, float]:
    """A step's values by the names that trackers show; unknown values are left out."""
    known = {name: getattr(metrics, name) for name in SHOWN}
    values = {name: float(value) for name, value in known.items() if value is not None}
    by_pool = {f"pool_loss/{pool}": loss for pool, loss in metrics.pools.items()}
    of_objective = {f"pairs/{name}": value for name, value in metrics.pairs.items()}
    return values | by_pool | of_objective | {f"match/{name}": value for name, value in metrics.match.items()}


class Trackers:
    """All trackers of a cell, in its first worker."""

    def __init__(self, train: TrainConfig, run_dir: RunDir, cell: str, *, key: str, log: Callable[[str], None]) -> None:
        self._log_line, self._open = log, dict[str, Tracker]()
        for name in train.trackers:
            if opened := self._guarded(name, partial(open_tracker, name, train, run_dir, cell, key)):
                self._open[name] = opened

    def log(self, metrics: StepMetrics) -> None:
        """Show a step."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.log, metrics.step, shown_values(metrics)))

    def close(self) -> None:
        """The cell has ended."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.close)

    def _guarded(self, name: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except (OSError, RuntimeError, ValueError, ImportError, InputError, _mlflow_error()) as error:
            self._open.pop(name, None)
            self._log_line(f"{name} is disabled for the rest of this cell: {type(error).__name__}: {error}")
            return None


def _mlflow_error() -> type[Exception]:
    if find_spec("mlflow") is None:
        return OSError
    from mlflow.exceptions import MlflowException

    return MlflowException  # type: ignore[no-any-return, unused-ignore]


def open_tracker(name: str, train: TrainConfig, run_dir: RunDir, cell: str, key: str) -> Tracker:
    """A tracker by its name."""
    if name == "tensorboard":
        return TensorBoard(run_dir, cell)
    uri = train.tracking_uri or run_dir.local_path(*MLFLOW).absolute().as_uri()
    return MLflow(uri, experiment=Path(run_dir.root).name, cell=cell, key=key)


class TensorBoard:
    """An event file in the cell's folder: `tensorboard --logdir RUN/train`."""

    def __init__(self, run_dir: RunDir, cell: str) -> None:
        from tensorboardX import SummaryWriter

        self._upload = ExitStack()  # on remote storage the file appears when the cell has ended
        folder = self._upload.enter_context(writing(run_dir, *Training(cell).file("tensorboard")))
        self._writer = SummaryWriter(str(folder), flush_secs=10)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add the values of a step. A step that a resumed cell repeats replaces the one before."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still buffered."""
        self._writer.close()
        self._upload.close()


class MLflow:
    """A run of an MLflow server or folder, one per cell; the experiment has the run directory's name."""

    def __init__(self, uri: str, *, experiment: str, cell: str, key: str) -> None:
        # An unreachable server costs seconds, not the quarter of an hour that MLflow would retry.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        earlier = self._client.search_runs([experiment_id], f"tags.`{CELL_KEY}` = '{key}'", max_results=1)
        run = earlier[0] if earlier else self._client.create_run(experiment_id, run_name=cell, tags={CELL_KEY: key})
        self._run_id = run.info.run_id
        self._buffer: list[Any] = []
        self._sent_at = 0.0

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add the values of a step; they are sent every few seconds."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._buffer += [Metric(name, value, now_ms, step) for name, value in values.items()]
        if time.monotonic() - self._sent_at > SEND_EVERY_S:
            self._send()

    def _send(self) -> None:
        for start in range(0, len(self._buffer), BATCH):
            self._client.log_batch(self._run_id, self._buffer[start : start + BATCH])
        self._buffer, self._sent_at = [], time.monotonic()

    def close(self) -> None:
        """Send the rest and mark the run as finished."""
        self._send()
        self._client.set_terminated(self._run_id)
