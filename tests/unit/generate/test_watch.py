"""The driver of a generation stops waiting for an engine that does not come up, and says why a job failed."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from distill.core.errors import InputError, StageError
from distill.generate import progress_actor
from distill.generate import watch as generate
from distill.generate.progress_actor import LOST_S, ProgressActor, Snapshot
from distill.generate.watch import watch


class Handle:
    """A `ProgressActor` in this process behind the one call of a Ray handle that the driver makes."""

    def __init__(self) -> None:
        self.progress = ProgressActor(complete=0, enough_prompts=None, spent_tokens={})
        self.snapshot = self

    def remote(self) -> Snapshot:
        return self.progress.snapshot()


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Handle:
    monkeypatch.setattr("ray.get", lambda value: value)
    monkeypatch.setattr(generate, "POLL_S", 0.01)
    return Handle()


def test_an_engine_that_does_not_come_up_ends_the_wait_at_its_deadline(progress: Handle) -> None:
    release = threading.Event()
    with pytest.raises(StageError, match=r"no engine was ready after 0\.2 s.*startup_deadline_s"):
        watch(lambda: _wait(release), progress, deadline_s=0.2, show=lambda snapshot: None)
    release.set()


def test_while_an_engine_reports_nothing_is_given_up(progress: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shown, done = [0.0], list[Any](), threading.Event()
    monkeypatch.setattr(progress_actor, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    progress.progress.engine_ready()

    def heartbeat(snapshot: Snapshot) -> None:
        progress.progress.heartbeat("a", 1)
        shown.append(snapshot)
        clock[0] += 0.15
        if len(shown) == 4:
            done.set()

    counts = watch(lambda: _wait(done), progress, deadline_s=0.2, show=heartbeat)
    assert counts["busy_ms"] == 0 and clock[0] > 0.5, "far beyond the deadline in all"


def test_when_all_engines_have_died_the_wait_ends_and_the_kept_traces_are_counted(progress: Handle) -> None:
    progress.progress.engine_ready()
    progress.progress.add({"traces": 7}, 0)
    release = threading.Event()
    with pytest.raises(StageError, match=r"no engine has responded for 0\.2 s[\s\S]*7 traces .* on disk; add nodes"):
        watch(lambda: _wait(release), progress, deadline_s=0.2, show=lambda snapshot: None)
    release.set()


def test_engines_with_work_are_distinguished_from_idle_dead_and_silent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = ProgressActor(complete=0, enough_prompts=None, spent_tokens={})
    for engine in "abcd":
        progress.engine_ready()
        progress.heartbeat(engine, 3)
    progress.heartbeat("b", 0)
    progress.engine_died("c", ["x"])
    assert (progress.snapshot().engines, progress.snapshot().busy_engines) == (3, 2)
    assert "2 of 3 engines busy" in generate.describe(progress.snapshot())
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + LOST_S + 1)
    progress.heartbeat("a", 3)
    assert (progress.snapshot().engines, progress.snapshot().busy_engines) == (2, 1)


def test_a_failed_job_names_its_cause_and_that_traces_are_kept(progress: Handle) -> None:
    progress.progress.engine_ready()
    progress.progress.add({"traces": 7}, 0)

    def fail() -> None:
        raise RuntimeError("Traceback ...\n  File x\nValueError: max_model_len is too large")

    with pytest.raises(StageError, match=r"max_model_len is too large[\s\S]*7 traces of this attempt are on disk"):
        watch(fail, progress, deadline_s=5, show=lambda snapshot: None)


@pytest.mark.parametrize(
    ("kind", "raised"), [("InputError", InputError), ("StageError", StageError), ("FullDiskError", StageError)]
)
def test_an_error_with_a_remedy_from_an_actor_is_told_as_it_is(
    progress: Handle, kind: str, raised: type[Exception]
) -> None:
    progress.progress.add({"traces": 7}, 0)

    def fail() -> None:
        what = f"distill.core.errors.{kind}: teachers[far]: no credit -> add some"
        raise RuntimeError(f"Traceback ...\n{what}\n\nray.exceptions.UserCodeException: UDF failed")

    with pytest.raises(raised, match=r"^generate: teachers\[far\]: no credit -> add some\n  \(7 traces"):
        watch(fail, progress, deadline_s=5, show=lambda snapshot: None)


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError("y"), MemoryError(), InputError("no prompts")])
def test_whatever_ends_the_job_ends_the_wait_at_once(progress: Handle, error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        watch(fail, progress, deadline_s=5, show=lambda snapshot: None)


def _wait(release: threading.Event) -> None:
    release.wait(10)
