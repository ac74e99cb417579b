"""How the class around vLLM's engine notices that the engine's process died, and how it stops it. No engine runs."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from serve.engines import stored_engine
from serve.engines.stored_engine import SHUTDOWN_S, StoredEngine, end_with


class Exited(Exception):
    """In the place of the end of the process."""


def exit_as_exception(code: int) -> None:
    raise Exited(code)


def test_a_replica_ends_with_its_engines_process_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_engine, "WATCH_S", 0.01)
    monkeypatch.setattr("os._exit", exit_as_exception)
    client = SimpleNamespace(errored=False)

    async def run() -> None:
        watch = asyncio.create_task(end_with(client))
        await asyncio.sleep(0.1)
        assert not watch.done()
        client.errored = True
        with pytest.raises(Exited, match="1"):
            await asyncio.wait_for(watch, 10.0)

    asyncio.run(run())


def test_a_replica_that_is_stopped_ends_its_engine_in_order() -> None:
    stopped: list[float] = []
    engine: Any = StoredEngine.__new__(StoredEngine)
    engine._token_receiver = None
    engine._engine_client = SimpleNamespace(errored=False, shutdown=lambda timeout: stopped.append(timeout))

    async def run() -> None:
        engine._watch = asyncio.create_task(end_with(engine._engine_client))
        await asyncio.sleep(0)
        await engine.shutdown()
        await asyncio.sleep(0)
        assert engine._watch.cancelled(), "an engine that is meant to end is not taken for a dead one"

    asyncio.run(run())
    assert stopped == [SHUTDOWN_S]
