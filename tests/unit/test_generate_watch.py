"""The driver of a generation stops waiting for an engine that does not come up, and says why a job failed."""

import threading
import time
from typing import Any

import pytest

from distill.core.errors import StageError
from distill.generate import watch as generate
from distill.generate.progress_actor import LOST_S, Snapshot, Tally
from distill.generate.watch import watch


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


def test_while_an_engine_is_heard_of_nothing_is_given_up(tally: Handle) -> None:
    tally.tally.engine_ready()
    shown: list[Any] = []

    def hear(snapshot: Snapshot) -> None:
        tally.tally.hear("a", 1)
        shown.append(snapshot)

    counts = watch(lambda: time.sleep(0.5), tally, deadline_s=0.2, show=hear)
    assert counts["busy_ms"] == 0 and len(shown) > 1


def test_when_all_engines_are_gone_for_good_the_wait_ends_and_what_is_kept_is_told(tally: Handle) -> None:
    tally.tally.engine_ready()
    tally.tally.add({"traces": 7}, 0)
    release = threading.Event()
    with pytest.raises(StageError, match=r"no engine was heard of for 0\.2 s[\s\S]*7 traces .* on disk; add machines"):
        watch(lambda: _wait(release), tally, deadline_s=0.2, show=lambda snapshot: None)
    release.set()


def test_engines_with_work_are_told_from_those_that_wait_died_or_fell_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(complete=0, enough_prompts=None, spent_tokens={})
    for engine in "abcd":
        tally.engine_ready()
        tally.hear(engine, 3)
    tally.hear("b", 0)
    tally.engine_died("c", ["x"])
    assert (tally.snapshot().engines, tally.snapshot().busy_engines) == (3, 2)
    assert "2 of 3 engines at work" in generate.describe(tally.snapshot())
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + LOST_S + 1)
    tally.hear("a", 3)
    assert (tally.snapshot().engines, tally.snapshot().busy_engines) == (2, 1)


def test_a_job_that_fails_tells_its_cause_and_that_traces_are_kept(tally: Handle) -> None:
    tally.tally.engine_ready()
    tally.tally.add({"traces": 7}, 0)

    def fail() -> None:
        raise RuntimeError("Traceback ...\n  File x\nValueError: max_model_len is too large")

    with pytest.raises(StageError, match=r"max_model_len is too large[\s\S]*7 traces of this attempt are on disk"):
        watch(fail, tally, deadline_s=5, show=lambda snapshot: None)


def _wait(release: threading.Event) -> None:
    release.wait(10)
