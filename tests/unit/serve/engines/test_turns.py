"""Requests of several models in one engine: whose weights are in it, and for how long."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serve.engines import turns
from serve.engines.turns import Turns


class _Engine:
    """Records what happens in it; a request lasts until it is let go."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.failing: set[str] = set()
        self.turns = Turns("a", self._exchange)
        self._open: dict[str, asyncio.Event] = {}

    async def _exchange(self, model: str) -> None:
        await asyncio.sleep(0)
        if model in self.failing:
            raise OSError(f"no weights of {model}")
        self.events.append(f"load {model}")

    async def ask(self, name: str) -> None:
        done = self._open.setdefault(name, asyncio.Event())
        async with self.turns.turn(name[0]):
            self.events.append(name)
            await done.wait()

    def end(self, *names: str) -> None:
        for name in names:
            self._open[name].set()


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def _run(scenario: Callable[[_Engine], Awaitable[None]]) -> list[str]:
    async def main() -> list[str]:
        engine = _Engine()
        await scenario(engine)
        return engine.events

    return asyncio.run(main())


def test_requests_of_the_model_that_is_loaded_run_together() -> None:
    async def scenario(engine: _Engine) -> None:
        tasks = [asyncio.ensure_future(engine.ask(name)) for name in ("a1", "a2", "a3")]
        await _settle()
        engine.end("a1", "a2", "a3")
        await asyncio.gather(*tasks)

    assert _run(scenario) == ["a1", "a2", "a3"]


def test_another_model_waits_until_the_last_request_has_ended_and_all_of_its_requests_then_run() -> None:
    async def scenario(engine: _Engine) -> None:
        tasks = [asyncio.ensure_future(engine.ask(name)) for name in ("a1", "b1", "a2", "b2", "c1")]
        await _settle()
        assert engine.events == ["a1", "a2"]
        engine.end("a1")
        await _settle()
        assert engine.events == ["a1", "a2"]
        engine.end("a2")
        await _settle()
        assert engine.events == ["a1", "a2", "load b", "b1", "b2"]
        engine.end("b1", "b2", "c1")
        await asyncio.gather(*tasks)

    assert _run(scenario)[5:] == ["load c", "c1"]


def test_a_model_that_is_asked_without_end_gives_way_to_one_that_has_waited_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_S", 0.0)

    async def scenario(engine: _Engine) -> None:
        tasks = [asyncio.ensure_future(engine.ask(name)) for name in ("a1", "b1")]
        await _settle()
        tasks.append(asyncio.ensure_future(engine.ask("a2")))
        await _settle()
        engine.end("a1", "b1", "a2")
        await asyncio.gather(*tasks)

    assert _run(scenario) == ["a1", "load b", "b1", "load a", "a2"]


def test_a_client_that_leaves_holds_nothing_up() -> None:
    async def scenario(engine: _Engine) -> None:
        first, leaving, last = [asyncio.ensure_future(engine.ask(name)) for name in ("a1", "b1", "c1")]
        await _settle()
        leaving.cancel()
        await _settle()
        first.cancel()
        await _settle()
        engine.end("c1")
        await last

    assert _run(scenario) == ["a1", "load c", "c1"]


@pytest.mark.parametrize("steps", range(12))
def test_a_client_that_leaves_at_any_moment_of_an_exchange_gives_its_place_back(steps: int) -> None:
    async def scenario(engine: _Engine) -> None:
        first, leaving = [asyncio.ensure_future(engine.ask(name)) for name in ("a1", "b1")]
        await _settle()
        engine.end("a1")
        for _ in range(steps):
            await asyncio.sleep(0)
        leaving.cancel()
        await first
        last = asyncio.ensure_future(engine.ask("c1"))
        await _settle()
        engine.end("c1")
        await asyncio.wait_for(last, 10)

    assert _run(scenario)[-2:] == ["load c", "c1"]


def test_after_a_failed_exchange_every_model_is_loaded_anew() -> None:
    async def scenario(engine: _Engine) -> None:
        engine.failing.add("b")
        with pytest.raises(OSError, match="no weights of b"):
            await engine.ask("b1")
        for name in ("a1", "a2"):
            engine._open[name] = asyncio.Event()
            engine.end(name)
            await engine.ask(name)

    assert _run(scenario) == ["load a", "a1", "a2"]
