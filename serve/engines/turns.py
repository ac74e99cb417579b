"""Whose weights are in an engine that several models share: a request waits until those of its model are."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

PATIENCE_S = 2.0
"""Seconds that other models wait while the one whose turn it is takes new requests."""


class _Waiting(NamedTuple):
    model: str
    since: float


class Turns:
    """Lets requests of one model at a time into an engine, and exchanges its weights in between.

    A model's turn ends when its requests have ended. It takes new ones meanwhile, unless another model has waited for
    `PATIENCE_S` of this turn: so a run's models are scored one after another with one exchange each, and of two that
    people ask in turn neither starves.
    """

    def __init__(self, first: str, exchange: Callable[[str], Awaitable[None]]) -> None:
        """`first`: the model whose weights the engine has. `exchange`: loads those of a model; nothing runs then."""
        self._resident = first
        self._exchange = exchange
        self._running = 0
        self._is_exchanging = False
        self._began = time.monotonic()
        self._waiting: list[_Waiting] = []
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def turn(self, model: str) -> AsyncIterator[None]:
        """Hold the engine for one request of a model.

        Raises:
            Exception: whatever `exchange` raised; the next request tries again.
        """
        await self._enter(model)
        try:
            yield
        finally:
            await asyncio.shield(self._leave())

    async def _enter(self, model: str) -> None:
        ticket = _Waiting(model, time.monotonic())
        self._waiting.append(ticket)
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self._may_enter(ticket))
                if model == self._resident:
                    self._running += 1
                    return
                self._is_exchanging = True
            await self._load(model)
        finally:
            self._waiting.remove(ticket)
            await asyncio.shield(self._announce())

    async def _load(self, model: str) -> None:
        """Exchange the weights, and hold the engine for the request that asked for it."""
        # After a failure nobody knows what is loaded, so that every model must be loaded again.
        self._resident = ""
        try:
            await self._exchange(model)
            self._resident = model
            self._running += 1
            self._began = time.monotonic()
        finally:
            self._is_exchanging = False

    async def _leave(self) -> None:
        self._running -= 1
        await self._announce()

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _may_enter(self, ticket: _Waiting) -> bool:
        if self._is_exchanging:
            return False
        others = [one for one in self._waiting if one.model != self._resident]
        if ticket.model == self._resident:
            return all(ticket.since - max(one.since, self._began) < PATIENCE_S for one in others)
        return self._running == 0 and ticket is others[0]
