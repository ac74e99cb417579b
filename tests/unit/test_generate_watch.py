"""The driver of a generation stops waiting for an engine that does not come up, and says why a job failed."""

import threading
import time
from typing import Any

import pytest

from distill import generate
from distill.errors import StageError
from distill.generate import watch
from distill.teachers.tally import Snapshot, Tally


class Handle:
    """A `Tally` in this process behind the one call of a Ray handle that the driver makes."""

    def __init__(self) -> None:
        self.tally = Tally(complete=0, enough_prompts=None, spent_tokens={})
        self.snapshot = self

    def remote(self) -> Snapshot:
        return self.tally.snapshot()


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> Handle:
    monkeypatch.setattr("ray.get", lambda value: value)
    monkeypatch.setattr(generate, "POLL_S", 0.01)
    return Handle()


def test_an_engine_that_does_not_come_up_ends_the_wait_at_its_deadline(tally: Handle) -> None:
    release, started = threading.Event(), time.monotonic()
    with pytest.raises(StageError, match=r"no engine was ready after 0\.2 s.*startup_deadline_s"):
        watch(lambda: _wait(release), tally, deadline_s=0.2, show=lambda snapshot: None)
    release.set()
    assert time.monotonic() - started < 2


def test_with_an_engine_up_the_deadline_is_over(tally: Handle) -> None:
    tally.tally.engine_ready()
    shown: list[Any] = []
    counts = watch(lambda: time.sleep(0.3), tally, deadline_s=0.05, show=shown.append)
    assert counts["busy_ms"] == 0 and len(shown) > 1


def test_a_job_that_fails_tells_its_cause_and_that_traces_are_kept(tally: Handle) -> None:
    tally.tally.engine_ready()
    tally.tally.add({"traces": 7}, 0)

    def fail() -> None:
        raise RuntimeError("Traceback ...\n  File x\nValueError: max_model_len is too large")

    with pytest.raises(StageError, match=r"max_model_len is too large[\s\S]*7 traces of this attempt are on disk"):
        watch(fail, tally, deadline_s=5, show=lambda snapshot: None)


def _wait(release: threading.Event) -> None:
    release.wait(10)
