"""Whose weights are in an engine that several models share: a request waits until those of its model are."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

PATIENCE_S = 2.0
"""Seconds that other models wait while the one whose turn it is takes new requests."""


@dataclass(eq=False)
class _Waiting:
    model: str
    since: float = field(default_factory=time.monotonic)
    woken: asyncio.Event = field(default_factory=asyncio.Event)


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

    @asynccontextmanager
    async def turn(self, model: str) -> AsyncIterator[None]:
        """Hold the engine for one request of a model.

        Raises:
            Exception: whatever `exchange` raised; the next request tries again.
        """
        await self._admit(model)
        # Nothing is awaited from here to the `try`: a client that leaves could not give its place back in between.
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._wake_all()

    async def _admit(self, model: str) -> None:
        """Wait until the engine has the model's weights and takes its requests."""
        ticket = _Waiting(model)
        self._waiting.append(ticket)
        try:
            while not self._may_enter(ticket):
                ticket.woken.clear()
                await ticket.woken.wait()
            if model != self._resident:
                await self._load(model)
        finally:
            self._waiting.remove(ticket)
            self._wake_all()

    async def _load(self, model: str) -> None:
        # After a failure nobody knows what is loaded, so that every model must be loaded again.
        self._resident, self._is_exchanging = "", True
        try:
            await self._exchange(model)
            self._resident, self._began = model, time.monotonic()
        finally:
            self._is_exchanging = False

    def _wake_all(self) -> None:
        for ticket in self._waiting:
            ticket.woken.set()

    def _may_enter(self, ticket: _Waiting) -> bool:
        if self._is_exchanging:
            return False
        others = [one for one in self._waiting if one.model != self._resident]
        if ticket.model == self._resident:
            return all(ticket.since - max(one.since, self._began) < PATIENCE_S for one in others)
        return self._running == 0 and ticket is others[0]
