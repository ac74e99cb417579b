"""Which job starts where and when: pure decisions, tested without Ray.

A job is a set of bundles, one per worker, that must all fit at once. Jobs start longest first, so that no long one is
left to run alone at the end; a shorter one may go ahead where the longest does not fit yet.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs of a node, or those that one worker takes."""

    cpus: float
    gpus: float = 0.0

    def holds(self, other: "Resources") -> bool:
        """Whether the other fits into this one."""
        return self.cpus >= other.cpus and self.gpus >= other.gpus

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" + {self.gpus:g} GPU" if self.gpus else "")


@dataclass(frozen=True)
class Job:
    """Something to run: equal workers, and a cost of any unit that says which job takes longer."""

    name: str
    worker: Resources
    num_workers: int = 1
    cost: float = 0.0


@dataclass(frozen=True)
class Placement:
    """A job with the node (by position) of each worker."""

    job: Job
    nodes: tuple[int, ...]


def place(job: Job, free: Sequence[Resources]) -> Placement | None:
    """Nodes for all workers of a job, the fullest that still hold one first; None where they do not all fit."""
    left, chosen = list(free), []
    for _ in range(job.num_workers):
        fitting = [node for node, resources in enumerate(left) if resources.holds(job.worker)]
        if not fitting:
            return None
        node = min(fitting, key=lambda index: (left[index].gpus, left[index].cpus, index))
        left[node] -= job.worker
        chosen.append(node)
    return Placement(job, tuple(chosen))


def free_resources(nodes: Sequence[Resources], running: Iterable[Placement]) -> tuple[Resources, ...]:
    """What the running jobs leave of each node."""
    left = list(nodes)
    for placement in running:
        for node in placement.nodes:
            left[node] -= placement.job.worker
    return tuple(left)


def admit(
    waiting: Iterable[Job], running: Sequence[Placement], nodes: Sequence[Resources], max_parallel: int | None = None
) -> tuple[Placement, ...]:
    """The jobs to start now. Deterministic: by cost, then by name."""
    admitted: list[Placement] = []
    for job in sorted(waiting, key=lambda job: (-job.cost, job.name)):
        busy = [*running, *admitted]
        if max_parallel is not None and len(busy) >= max_parallel:
            break
        placement = place(job, free_resources(nodes, busy))
        if placement is not None:
            admitted.append(placement)
    return tuple(admitted)


def misfits(jobs: Iterable[Job], nodes: Sequence[Resources]) -> tuple[Job, ...]:
    """Jobs that do not fit even when nothing else runs."""
    return tuple(job for job in jobs if place(job, nodes) is None)


def cpus_per_worker(num_workers: int, num_jobs: int, num_cpus: float) -> int:
    """Whole CPUs for each worker when as many jobs as possible share the CPUs. At least one.

    Two cells with one thread each finish sooner than one after the other with two: start-up, rendering and saving use
    one thread whatever there is.
    """
    at_once = max(1, min(num_jobs, int(num_cpus // num_workers)))
    return max(1, int(num_cpus // (at_once * num_workers)))
