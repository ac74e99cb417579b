"""What `distill serve` decides and hears of. No server and no Ray."""

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.placement import Resources
from distill.cli import serve as serving
from distill.cli.main import parse_arguments
from distill.cli.serve import serve_until_stopped, shared_where_needed, stop_on_signals
from distill.evaluate.models import EvaluatedModel
from serve.config import Endpoint
from tests.fixtures.report_run import make_recipe


@pytest.fixture
def handlers() -> Iterator[None]:
    """The process's own handlers, back after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("before", [signal.SIG_IGN, lambda number, frame: None])
def test_a_signal_stops_the_server_whatever_was_set_before(handlers: None, number: signal.Signals, before: Any) -> None:
    signal.signal(number, before)
    stop_on_signals()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_the_engines_are_looked_at_until_a_signal_comes(handlers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = list[int]()

    def look() -> None:
        looks.append(1)
        if len(looks) == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(serving, "LOOK_EVERY_S", 0.0)
    stop_on_signals()
    serve_until_stopped(SimpleNamespace(look=look))  # type: ignore[arg-type]  # a fake
    assert len(looks) == 3


@pytest.mark.parametrize(("device", "cores", "expected"), [("cpu", 2, 2), ("cpu", 8, 1), ("gpu", 8, 4)])
def test_more_engines_than_cores_are_not_started(
    monkeypatch: pytest.MonkeyPatch, device: str, cores: int, expected: int
) -> None:
    asked = list[int]()

    def share(models: list[EvaluatedModel], section: Any, max_engines: int, alone: Any) -> list[EvaluatedModel]:
        asked.append(max_engines)
        return models

    monkeypatch.setattr(serving, "share_engines", share)
    recipe = make_recipe(serve={"cpus_per_engine": 0.1})
    session: Any = SimpleNamespace(device=device, nodes=lambda: (Resources(cpus=cores, gpus=4),))
    (endpoint,) = shared_where_needed(
        recipe, session, [EvaluatedModel("a", "a", None, "k")], [Endpoint(name="a", source="a")]
    )
    assert asked == [expected] and endpoint.shared_engine == ""


@pytest.mark.parametrize("port", ["99999", "-1", "1.5", "http", ""])
def test_a_port_that_is_none_is_refused_with_the_range(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as told:
        parse_arguments(["serve", "run", f"--port={port}"])
    assert told.value.code == 2 and "from 0, which takes a free one, to 65535" in capsys.readouterr().err
