"""Grades traces in batches; requests that arrive during one batch form the next."""

import asyncio

from distill.grading import Grade, GradeRequest, GraderPool


class AsyncGrader:
    """A `GraderPool` for the coroutines of one event loop."""

    def __init__(self, pool: GraderPool) -> None:
        self._pool = pool
        self._waiting: list[tuple[GradeRequest, asyncio.Future[Grade]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def grade(self, request: GradeRequest) -> Grade:
        """The grade of one request.

        Raises:
            Exception: whatever its batch could not be graded for, as that no process can be started.
        """
        future: asyncio.Future[Grade] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._grade_waiting())
        return await future

    async def _grade_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                grades = await asyncio.to_thread(self._pool.grade_batch, [request for request, _ in batch])
            except Exception as error:  # noqa: BLE001 - not swallowed: all that wait for a grade of this batch get it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), grade in zip(batch, grades, strict=True):
                if not future.done():
                    future.set_result(grade)
