"""Waves of engines: what happens when one engine for several students does not come up."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.placement import Resources
from cluster.session import Session
from distill.core.run_dir import RunDir
from distill.evaluate import score_models
from distill.evaluate.models import EvaluatedModel
from distill.evaluate.score import ScoreSink
from serve.config import Endpoint
from serve.errors import ServeError
from tests.fixtures.report_run import make_recipe

BROKEN = "second is listed but does not answer"


class _Cluster:
    """A Serve on which an engine that several models share never answers, if `is_broken`; records what was deployed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_broken: bool) -> None:
        self.deployed: list[list[str]] = []
        self.is_broken = is_broken
        monkeypatch.setattr(score_models, "deploy", self._deploy)
        monkeypatch.setattr(score_models, "undeploy", lambda: None)
        monkeypatch.setattr(Session, "nodes", lambda session: (Resources(2.0, 0.0, 8.0),))
        monkeypatch.setattr(score_models, "score_items", lambda *arguments: None)
        monkeypatch.setattr(score_models, "asked_endpoints", lambda wave, *chat: [model.endpoint for model in wave])

    def _deploy(self, endpoints: list[Endpoint], config: Any, **more: Any) -> str:
        self.deployed.append([endpoint.shared_engine for endpoint in endpoints])
        if self.is_broken and any(endpoint.shared_engine for endpoint in endpoints):
            raise ServeError(BROKEN)
        return "http://127.0.0.1:1"


def _score(folder: Path) -> tuple[dict[str, float], str]:
    models = [EvaluatedModel(name, f"x/{name}", None, name, shared_engine="x/0") for name in ("first", "second")]
    recipe = make_recipe(serve={"cpus_per_engine": 0.1})
    console = Console(file=io.StringIO(), width=200)
    engines = score_models._Engines(recipe, Session("cpu", 2.0, 0.0, "", ""), models, at_once=8)
    sink = ScoreSink(RunDir(str(folder)), console, recipe.verify)
    times: dict[str, float] = {}
    for name, value in score_models._score_in_waves(models, [], {}, engines, sink):
        times[name] = times.get(name, 0.0) + value
    assert isinstance(console.file, io.StringIO)
    return times, console.file.getvalue()


def test_students_of_one_engine_are_served_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = _Cluster(monkeypatch, is_broken=False)
    times, told = _score(tmp_path)
    assert cluster.deployed == [["x/0", "x/0"]] and times["engines"] == 1
    assert "first, second, whose weights take turns" in told


def test_where_weights_cannot_be_exchanged_every_student_gets_an_engine_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = _Cluster(monkeypatch, is_broken=True)
    times, told = _score(tmp_path)
    assert cluster.deployed == [["x/0", "x/0"], ["", ""]] and times["engines"] == 2
    assert BROKEN in told and "an engine of its own" in told
