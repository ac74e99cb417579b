"""The processes of `distill chat`: how a start that fails is told, and that nothing is left. No engine."""

import time
from pathlib import Path

import psutil
import pytest

from serve import local_server as starting
from serve.config import Endpoint, ServeConfig
from serve.errors import ServeError
from serve.local_server import local_server


@pytest.fixture(autouse=True)
def small_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "APP", "tests.fixtures.small_app")
    monkeypatch.setattr(starting, "STOP_S", 20.0)


def endpoint(name: str) -> Endpoint:
    return Endpoint(name=name, source="somewhere/model")


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is left"
        time.sleep(0.05)


def test_it_ends_by_itself_where_its_input_ends(tmp_path: Path) -> None:
    with local_server(endpoint("ends"), ServeConfig(), tmp_path / "log") as url:
        child = int(url.rsplit("/", 1)[1])
        assert is_running(child)
    wait_until_gone(child)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ended", "log"]


def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "STOP_S", 0.2)
    with local_server(endpoint("hangs"), ServeConfig(), tmp_path / "log") as url:
        child = int(url.rsplit("/", 1)[1])
    wait_until_gone(child)
    assert [file.name for file in tmp_path.iterdir()] == ["log"]


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), local_server(endpoint("hangs"), ServeConfig(), tmp_path / "log") as url:
        child = int(url.rsplit("/", 1)[1])
        raise KeyboardInterrupt
    wait_until_gone(child)


def test_a_start_that_fails_is_told_with_its_last_line_and_its_log(tmp_path: Path) -> None:
    words = r"the engine of dies did not start: no room for the weights -> its log: .*/log"
    with pytest.raises(ServeError, match=words), local_server(endpoint("dies"), ServeConfig(), tmp_path / "log"):
        pass
