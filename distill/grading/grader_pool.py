"""Worker processes that can be killed: bounded time and memory for every row, whatever it holds.

Easy rows never leave the caller. Hard rows go to workers forked from one `nursery` process over sockets; a worker past
its deadline is killed and replaced, and only its row becomes an ERROR. N rows of which k are poisonous end after about
`k * deadline_s / num_workers` on top of the time of the others.
"""

import select
import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from distill.core.schema import AnswerKind, Verdict
from distill.grading.grade import Question, decide
from distill.grading.messages import MAX_MESSAGE_BYTES, question_to_bytes
from distill.grading.types import Grade, GradeRequest
from distill.grading.worker_client import Nursery, Worker

if TYPE_CHECKING:
    from distill.config.verify import VerifyConfig

RECYCLE_ROWS = 2_000
"""sympy's caches grow with every new expression; a fresh fork costs some 10 ms."""
MAX_RESTARTS = 3
"""Nurseries that may die in one batch before the batch gives up: no row can reach one."""
POLL_S = 0.05

Job = tuple[int, Question, bytes]


def _error(question: Question, rule: str, detail: str) -> Grade:
    return Grade(Verdict.ERROR, question.answer, rule, detail)


class GraderPool:
    """Grades batches. Safe to share between threads (one batch at a time); starts a process when one is needed."""

    def __init__(self, num_workers: int = 1, deadline_s: float = 2.0, memory_bytes: int = 1 << 30) -> None:
        self.num_workers = num_workers
        self.deadline_s = deadline_s
        self.memory_bytes = memory_bytes
        self.num_replaced = 0
        """Workers killed over a limit or found dead, for the counters of a long run."""
        self._ended_cpu_s = 0.0
        self._nursery: Nursery | None = None
        self._idle: list[Worker] = []
        self._busy: dict[int, tuple[Worker, Job]] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, verify: "VerifyConfig") -> Self:
        """The pool that a recipe asks for."""
        return cls(verify.num_workers, verify.deadline_s, verify.memory_mb << 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process; the pool may be used again."""
        with self._lock:
            self._drop_all()

    def grade_batch(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        """One grade per request, in order."""
        decided = [decide(request) for request in requests]
        grades = {index: item for index, item in enumerate(decided) if isinstance(item, Grade)}
        jobs: deque[Job] = deque()
        for index, item in enumerate(decided):
            if isinstance(item, Question):
                message = question_to_bytes(item)
                if len(message) > MAX_MESSAGE_BYTES:
                    grades[index] = _error(item, "entry_too_long", f"{len(message)} bytes")
                else:
                    jobs.append((index, item, message))
        if jobs:
            with self._lock:
                self._work_off(jobs, grades)
        return [grades[index] for index in range(len(requests))]

    def worker_cpu_s(self) -> float:
        """CPU time that rows have cost in workers, to the kernel's tick of 10 ms per worker."""
        return self._ended_cpu_s + sum(worker.cpu_s() for worker in self._idle)

    def _work_off(self, jobs: deque[Job], grades: dict[int, Grade]) -> None:
        restarts = 0
        try:
            while jobs or self._busy:
                try:
                    self._fill(jobs)
                    self._collect(grades)
                except ConnectionError as error:  # the nursery itself is gone, and its workers with it
                    restarts += 1
                    self._salvage(jobs, grades, f"{error}", is_last=restarts > MAX_RESTARTS)
        finally:
            if self._busy:  # interrupted: what these workers answer would be taken for the next batch's
                self._drop_all()

    def _salvage(self, jobs: deque[Job], grades: dict[int, Grade], why: str, *, is_last: bool) -> None:
        """Rows in flight get a second chance in a new nursery, until there have been too many."""
        in_flight = [job for _, job in self._busy.values()]
        self._drop_all()
        jobs.extendleft(reversed(in_flight))
        if is_last:
            grades.update({index: _error(question, "crash", why) for index, question, _ in jobs})
            jobs.clear()

    def _drop_all(self) -> None:
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            worker.channel.close()
        self._idle, self._busy = [], {}
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    def _fill(self, jobs: deque[Job]) -> None:
        """Gives every free worker a row."""
        while jobs and len(self._busy) < self.num_workers:
            needs_gym = jobs[0][1].kind == AnswerKind.REASONING_GYM
            worker = self._free_worker(needs_gym=needs_gym)
            job = jobs.popleft()
            self._busy[worker.channel.fileno()] = (worker, job)
            worker.start(job[2])

    def _free_worker(self, *, needs_gym: bool) -> Worker:
        self._nursery = self._nursery or Nursery()
        if needs_gym and not self._nursery.is_gym_loaded:
            self._nursery.load_gym()
        while self._idle:
            worker = self._idle.pop()
            if worker.num_rows < RECYCLE_ROWS and (worker.knows_gym or not needs_gym):
                return worker
            self._end(worker)
        return Worker(self._nursery, self.memory_bytes)

    def _collect(self, grades: dict[int, Grade]) -> None:
        """Takes the grades that have arrived, and the lives of workers past their deadline."""
        ready, _, _ = select.select(list(self._busy), [], [], min(POLL_S, self.deadline_s))
        for descriptor in ready:
            self._finish(descriptor, grades)
        overdue = [key for key, (worker, _) in self._busy.items() if worker.is_overdue(self.deadline_s)]
        for descriptor in overdue:
            worker, (index, question, _) = self._busy[descriptor]
            self._replace(worker)
            del self._busy[descriptor]
            grades[index] = _error(question, "timeout", f"no verdict in {self.deadline_s:g} s")

    def _finish(self, descriptor: int, grades: dict[int, Grade]) -> None:
        """Books one worker's grade. A row leaves `_busy` only then: should the nursery turn out dead, it is retried."""
        worker, (index, question, _) = self._busy[descriptor]
        grade = worker.receive()
        if grade is None:
            self._replace(worker)
        del self._busy[descriptor]
        grades[index] = grade or _error(question, "crash", "the worker process died on this row")
        if grade is not None and grade.rule == "memory":  # its heap is full of what did not fit
            self._replace(worker)
        elif grade is not None:
            self._idle.append(worker)

    def _replace(self, worker: Worker) -> None:
        self.num_replaced += 1
        self._end(worker)

    def _end(self, worker: Worker) -> None:
        self._ended_cpu_s += worker.cpu_s()
        worker.end()
