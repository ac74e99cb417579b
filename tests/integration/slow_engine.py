"""A stub of a teacher's engine, in a module of its own: Ray's workers import it by name."""

import asyncio

from distill.generate.asker import Completion
from distill.generate.pools import Request
from distill.run.pools import Pool
from tests.benchmarks.scale_rows import StubEngine

SLOW_S = 12.0


class SlowEngine(StubEngine):
    """Takes long for the first prompt and no time for the others."""

    async def write(self, request: Request, pool: Pool, problem: str) -> Completion:
        await asyncio.sleep(SLOW_S if "What is 0 +" in problem else 0)
        return await super().write(request, pool, problem)
