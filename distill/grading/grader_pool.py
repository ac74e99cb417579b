"""Worker processes that can be killed: bounded time and memory for every row, whatever it holds.

Rows that the rules can grade never leave the caller. The others go over sockets to workers forked from one fork server;
a worker past its deadline is killed and replaced, and only its row becomes an ERROR. N rows of which k run into the
deadline take about `k * deadline_s / num_workers` on top of the time of the others.
"""

import select
import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from cluster.units import GIB
from distill.core.schema import AnswerKind, Verdict
from distill.grading.grade import SymbolicTask, check_rules
from distill.grading.messages import MAX_MESSAGE_BYTES, task_to_bytes
from distill.grading.types import Grade, GradeRequest
from distill.grading.worker_client import ForkServer, Worker

RECYCLE_ROWS = 2_000
"""Rows after which a worker is replaced: sympy's caches grow with every new expression; a fork costs some 10 ms."""
MAX_RESTARTS = 3
"""Fork servers that may die in one batch before the batch gives up. No row can reach one, so this is the machine."""
POLL_S = 0.05
LOADED = (AnswerKind.REASONING_GYM, AnswerKind.INSTRUCTIONS)
"""Kinds whose packages take seconds to import: only a pool that grades them has them."""

Job = tuple[int, SymbolicTask, bytes]
"""Index of the request in its batch, the task, and the task as a message."""


class PoolConfig(Protocol):
    """The settings of a pool; a recipe's `[verify]` section has them."""

    @property
    def num_workers(self) -> int: ...
    @property
    def deadline_s(self) -> float: ...
    @property
    def memory_mib(self) -> int: ...


def _error(task: SymbolicTask, rule: str, detail: str) -> Grade:
    return Grade(Verdict.ERROR, task.answer, rule, detail)


class GraderPool:
    """Grades batches. Threads may share it (one batch at a time); processes start when the first task needs one."""

    def __init__(self, num_workers: int = 1, deadline_s: float = 2.0, memory_bytes: int = GIB) -> None:
        self.num_workers = num_workers
        self.deadline_s = deadline_s
        self.memory_bytes = memory_bytes
        """Memory of one worker beyond its start."""
        self.num_replaced = 0
        """Workers killed over a limit or found dead, since the pool was made."""
        self._ended_cpu_s = 0.0
        self._fork_server: ForkServer | None = None
        self._idle: list[Worker] = []
        self._busy: dict[int, tuple[Worker, Job]] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: PoolConfig) -> Self:
        """The pool that a recipe asks for."""
        return cls(config.num_workers, config.deadline_s, config.memory_mib << 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process; the pool may be used again."""
        with self._lock:
            self._close_all()

    def grade_batch(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        """One grade per request, in order."""
        checked = [check_rules(request) for request in requests]
        grades = {index: item for index, item in enumerate(checked) if isinstance(item, Grade)}
        jobs: deque[Job] = deque()
        for index, item in enumerate(checked):
            if isinstance(item, SymbolicTask):
                message = task_to_bytes(item)
                if len(message) > MAX_MESSAGE_BYTES:
                    grades[index] = _error(item, "entry_too_long", f"{len(message)} bytes")
                else:
                    jobs.append((index, item, message))
        if jobs:
            with self._lock:
                self._run_jobs(jobs, grades)
        return [grades[index] for index in range(len(requests))]

    def worker_cpu_s(self) -> float:
        """CPU time that rows have cost in workers, seconds, to the kernel's tick of 10 ms per worker."""
        return self._ended_cpu_s + sum(worker.cpu_s() for worker in self._idle)

    def _run_jobs(self, jobs: deque[Job], grades: dict[int, Grade]) -> None:
        restarts = 0
        try:
            while jobs or self._busy:
                try:
                    self._dispatch(jobs)
                    self._collect(grades)
                except ConnectionError as error:  # the fork server itself has died, and its workers with it
                    restarts += 1
                    self._requeue(jobs, grades, f"{error}", is_last=restarts > MAX_RESTARTS)
        finally:
            if self._busy:  # interrupted: replies of these workers would be taken for replies to the next batch
                self._close_all()

    def _requeue(self, jobs: deque[Job], grades: dict[int, Grade], why: str, *, is_last: bool) -> None:
        """Rows in flight are tried again under a new fork server, until too many of those have died."""
        in_flight = [job for _, job in self._busy.values()]
        self._close_all()
        jobs.extendleft(reversed(in_flight))
        if is_last:
            grades.update({index: _error(task, "crash", why) for index, task, _ in jobs})
            jobs.clear()

    def _close_all(self) -> None:
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            worker.channel.close()
        self._idle, self._busy = [], {}
        if self._fork_server is not None:
            self._fork_server.close()
            self._fork_server = None

    def _dispatch(self, jobs: deque[Job]) -> None:
        """Gives every free worker a row."""
        while jobs and len(self._busy) < self.num_workers:
            worker = self._free_worker(jobs[0][1].kind)
            job = jobs.popleft()
            self._busy[worker.channel.fileno()] = (worker, job)
            worker.start(job[2])

    def _free_worker(self, kind: str) -> Worker:
        self._fork_server = self._fork_server or ForkServer()
        needed = {kind}.intersection(LOADED)
        if not needed <= self._fork_server.loaded:
            self._fork_server.load(kind)
        while self._idle:
            worker = self._idle.pop()
            if worker.num_rows < RECYCLE_ROWS and needed <= worker.loaded:
                return worker
            self._end(worker)
        return Worker(self._fork_server, self.memory_bytes)

    def _collect(self, grades: dict[int, Grade]) -> None:
        """Collects the grades that have arrived and kills the workers past their deadline."""
        ready, _, _ = select.select(list(self._busy), [], [], min(POLL_S, self.deadline_s))
        for descriptor in ready:
            self._finish(descriptor, grades)
        overdue = [key for key, (worker, _) in self._busy.items() if worker.is_overdue(self.deadline_s)]
        for descriptor in overdue:
            worker, (index, task, _) = self._busy[descriptor]
            self._discard(worker)
            del self._busy[descriptor]
            grades[index] = _error(task, "timeout", f"no verdict in {self.deadline_s:g} s")

    def _finish(self, descriptor: int, grades: dict[int, Grade]) -> None:
        """Records one worker's grade. A row leaves `_busy` last, so that it is retried if the fork server has died."""
        worker, (index, task, _) = self._busy[descriptor]
        grade = worker.receive()
        if grade is None:
            self._discard(worker)
        del self._busy[descriptor]
        grades[index] = grade or _error(task, "crash", "the worker process died on this row")
        if grade is not None and grade.rule == "memory":  # its heap is full of what did not fit
            self._discard(worker)
        elif grade is not None:
            self._idle.append(worker)

    def _discard(self, worker: Worker) -> None:
        """Ends a worker that broke a limit or died; `_free_worker` forks another one when a row needs it."""
        self.num_replaced += 1
        self._end(worker)

    def _end(self, worker: Worker) -> None:
        self._ended_cpu_s += worker.cpu_s()
        worker.end()
