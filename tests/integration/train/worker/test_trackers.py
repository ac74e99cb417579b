"""TensorBoard files and an MLflow store, written and read back; and what happens when one is not there."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from distill.config.train import TrainConfig, missing_trackers
from distill.core.run_dir import RunDir
from distill.train.worker import trackers
from distill.train.worker.metrics import StepMetrics
from distill.train.worker.trackers import Trackers, shown_values


def metrics(step: int) -> StepMetrics:
    return StepMetrics(
        step, 4, loss=2.0 / step, lr=1e-3, grad_norm=0.5, tokens=10, supervised_tokens=5, seconds=1.0,
        tokens_per_s=10.0, pools={"long": 3.0 / step},
    )  # fmt: skip


def track(run_dir: RunDir, steps: range, **options: object) -> list[str]:
    lines: list[str] = []
    train = TrainConfig.model_validate(options)
    shown = Trackers(train, run_dir, "cell", key="k", log=lines.append)
    for step in steps:
        shown.log(metrics(step))
    shown.close()
    return lines


def test_values_that_are_not_known_are_left_out() -> None:
    assert shown_values(metrics(1)) == {
        "loss": 2.0, "lr": 1e-3, "grad_norm": 0.5, "tokens_per_s": 10.0, "pool_loss/long": 3.0,
    }  # fmt: skip


def test_tensorboard_gets_an_event_file_in_the_cells_folder(tmp_path: Path) -> None:
    assert track(RunDir(str(tmp_path)), range(1, 3), trackers=["tensorboard"]) == []
    (file,) = (tmp_path / "train" / "cell" / "tensorboard").glob("events.out.tfevents.*")
    assert b"pool_loss/long" in file.read_bytes()


def test_mlflow_has_one_run_per_cell_also_when_the_cell_was_resumed(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path / "my-run"))
    assert track(run_dir, range(1, 3), trackers=["mlflow"]) == []
    assert track(run_dir, range(3, 5), trackers=["mlflow"]) == []
    client = MlflowClient(tracking_uri=(tmp_path / "my-run" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("my-run")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "cell" and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "pool_loss/long")
    assert sorted((one.step, one.value) for one in history) == [(1, 3.0), (2, 1.5), (3, 1.0), (4, 0.75)]


def test_a_tracker_that_fails_is_reported_once_and_the_others_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, step: int, values: dict[str, float]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trackers.TensorBoard, "log", broken)
    lines = track(RunDir(str(tmp_path)), range(1, 4), trackers=["tensorboard", "mlflow"])
    assert lines == ["tensorboard is disabled for the rest of this cell: OSError: [Errno 28] No space left on device"]


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.config.train.find_spec", lambda module: None if module == "mlflow" else object())
    assert missing_trackers(["tensorboard", "mlflow"]) == ["mlflow"]
