"""A process ends with its engine's, unless the engine says itself why it failed, or has answered."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess

import pytest

from distill.train.rollouts.engine_watch import ENGINE_LOST, ends_with_engine, started_engine


@pytest.fixture
def engine() -> Iterator[BaseProcess]:
    """What stands for the engine's own process."""
    other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
    other.start()

    def start() -> str:
        process.start()
        return "engine"

    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
    made, processes = started_engine(start)
    assert made == "engine" and processes == [process], "other processes are not the engine's"
    yield process
    for one in (process, other):
        one.kill()
        one.join()


class Ended:
    """Notes the exit code that a process would end with."""

    def __init__(self) -> None:
        self.codes, self.has_ended = list[int](), threading.Event()

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.has_ended.set()


def with_a_worker() -> None:
    """An engine's process that has forked a worker, which outlives it by some seconds and holds what it inherited."""
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    time.sleep(600)


def test_an_engine_is_missed_though_its_worker_lives_on() -> None:
    process, ended = multiprocessing.get_context("fork").Process(target=with_a_worker, daemon=True), Ended()
    process.start()
    time.sleep(0.5)  # until it has forked
    with ends_with_engine([process], grace_s=0.0, end=ended):
        process.kill()
        assert ended.has_ended.wait(10)


def test_an_engine_that_is_killed_while_it_is_asked_ends_its_process(engine: BaseProcess) -> None:
    ended = Ended()
    with ends_with_engine([engine], grace_s=0.0, end=ended):
        engine.kill()
        assert ended.has_ended.wait(30), "vLLM would wait for its answers without end"
    assert ended.codes == [ENGINE_LOST]


def test_an_engine_that_says_why_it_failed_is_heard(engine: BaseProcess) -> None:
    ended = Ended()
    with pytest.raises(RuntimeError, match="EngineCore"), ends_with_engine([engine], grace_s=30.0, end=ended):
        engine.kill()
        engine.join()
        raise RuntimeError("EngineCore encountered an issue")
    assert not ended.has_ended.wait(1.5)


def test_an_engine_that_has_answered_may_end(engine: BaseProcess) -> None:
    ended = Ended()
    with ends_with_engine([engine], grace_s=0.0, end=ended):
        pass
    engine.kill()
    assert not ended.has_ended.wait(1.5)


def test_an_engine_in_this_very_process_is_not_watched() -> None:
    before = threading.active_count()
    with ends_with_engine([]):
        assert threading.active_count() == before
