"""TensorBoard files and an MLflow store, written and read back; and what happens when one is not there."""

import json
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from distill.config.train import TrainConfig, missing_trackers
from distill.core.run_dir import RunDir
from distill.evaluate.interval import Interval
from distill.report.score_data import ModelScore
from distill.report.tracked import COLUMNS, track_scores
from distill.train.worker import trackers
from distill.train.worker.logged_run import ARGUMENTS, OpenedAs
from distill.train.worker.metrics import StepMetrics
from distill.train.worker.trackers import TrackedRun, Trackers, shown_values


def metrics(step: int) -> StepMetrics:
    return StepMetrics(
        step, 4, loss=2.0 / step, lr=1e-3, grad_norm=0.5, tokens=10, supervised_tokens=5, seconds=1.0,
        tokens_per_s=10.0, pools={"long": 3.0 / step},
    )  # fmt: skip


def track(run_dir: RunDir, steps: range, **options: object) -> list[str]:
    lines: list[str] = []
    train = TrainConfig.model_validate(options)
    shown = Trackers(train, run_dir, TrackedRun.of_cell("cell", "k"), log=lines.append)
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
    assert lines == ["tensorboard is disabled for the rest of cell: OSError: [Errno 28] No space left on device"]


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.config.train.find_spec", lambda module: None if module == "mlflow" else object())
    assert missing_trackers(["tensorboard", "mlflow"]) == ["mlflow"]


SCORE = ModelScore(
    "tiny@long",
    "tiny",
    "long",
    0,
    "sums",
    0.25,
    Interval(0.1, 0.4),
    40,
    40,
    10,
    30,
    0,
    0,
    12.5,
    20.0,
    1,
    0,
    None,
    1,
    (),
)
ROW = ["tiny@long", "sums", 0.25, 0.1, 0.4, 40, 12.5, 1]


def test_the_scores_with_their_intervals_are_a_table_of_every_tracker(tmp_path: Path) -> None:
    run_dir, lines = RunDir(str(tmp_path / "my-run")), list[str]()
    train = TrainConfig.model_validate({"trackers": ["tensorboard", "mlflow"]})
    for _ in range(2):
        track_scores(train, run_dir, [SCORE], lines.append)
    assert lines == []
    events = [file.read_bytes() for file in (tmp_path / "my-run" / "report" / "tensorboard").iterdir()]
    assert all(b"| tiny@long | sums | 0.2500 | 0.1000 | 0.4000 |" in event for event in events)
    client = MlflowClient(tracking_uri=(tmp_path / "my-run" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("my-run")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "scores.json")).read_text())
    assert table == {"columns": list(COLUMNS), "data": [ROW]}


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed -> the extra `trackio`")
def test_trackio_keeps_curves_and_scores_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))  # read where trackio is imported, which is below
    run_dir, lines = RunDir(str(tmp_path / "my-run")), list[str]()
    assert track(run_dir, range(1, 3), trackers=["trackio"]) == []
    assert track(run_dir, range(3, 5), trackers=["trackio"]) == [], "a resumed cell"
    track_scores(TrainConfig.model_validate({"trackers": ["trackio"]}), run_dir, [SCORE], lines.append)
    assert lines == []
    with sqlite3.connect(tmp_path / "store" / "my-run.db") as store:
        rows = store.execute("select run_name, step, metrics from metrics order by id").fetchall()
    values = [(name, step, json.loads(metrics)) for name, step, metrics in rows]
    curve = [(step, found["pool_loss/long"]) for name, step, found in values if name == "cell"]
    assert curve == [(1, 3.0), (2, 1.5), (3, 1.0), (4, 0.75)]
    (table,) = [found["scores"]["_value"] for name, _, found in values if name == "scores"]
    assert table == [dict(zip(COLUMNS, ROW, strict=True))]


@pytest.mark.parametrize(
    ("tracker", "key", "offline"),
    [("wandb", "WANDB_API_KEY", "offline"), ("swanlab", "SWANLAB_API_KEY", "offline"), ("trackio", "", None)],
)
def test_without_a_key_nothing_leaves_the_machine_and_nothing_is_asked(tracker: str, key: str, offline: Any) -> None:
    run = OpenedAs("project", "cell", "k", "folder")
    alone, told = ARGUMENTS[tracker](run, {}), ARGUMENTS[tracker](run, {key: "secret"})
    assert alone.get("mode") == offline and "mode" not in told
    assert alone["project"] == "project" and alone["name"] == "cell"
    assert "secret" not in str(told)
