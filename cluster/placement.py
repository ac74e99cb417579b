"""Which job starts where and when: pure decisions, tested without Ray.

A job is a set of bundles, one per worker, that must all fit at once. Jobs are offered what is free in the order that
`cluster.schedule` found best; one that does not fit yet may be overtaken by others that do.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cluster.gpus import of_kind


class Resources(NamedTuple):
    """What a node has, or what one worker takes. A tuple, since simulations make hundreds of thousands of them."""

    cpus: float
    gpus: float = 0.0
    memory_gb: float = 0.0
    """Main memory, GiB. Of GPU workers 0: their own memory is the device's, which nobody shares."""
    gpu: str = ""
    """Kind of its GPUs as Ray names it, for example `H100`, several with a comma; of a worker the one kind that it must
    have. Empty: any."""

    def holds(self, other: "Resources") -> bool:
        """Whether the other fits into this one."""
        fits = self.cpus >= other.cpus and self.gpus >= other.gpus and self.memory_gb >= other.memory_gb
        return fits and self.is_of_kind(other.gpu)

    @property
    def amounts(self) -> tuple[float, float, float]:
        """CPUs, GPUs, memory."""
        return self.cpus, self.gpus, self.memory_gb

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray is asked for, without memory, by which only our own queue chooses."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} | of_kind(self.gpu) if self.gpus else {})

    def is_of_kind(self, gpu: str) -> bool:
        """Whether a worker that must have this kind of GPU may be here."""
        return not gpu or gpu in self.gpu.split(", ")

    def slots_for(self, worker: "Resources") -> int:
        """How many such workers fit."""
        if not self.is_of_kind(worker.gpu):
            return 0
        pairs = ((self.cpus, worker.cpus), (self.gpus, worker.gpus), (self.memory_gb, worker.memory_gb))
        # What was taken and given back in fractions must still hold what it held before.
        return max(0, int(min(((have + 1e-6) // need for have, need in pairs if need), default=0)))

    def less(self, worker: "Resources", num_workers: int) -> "Resources":
        """What is left beside so many workers."""
        return Resources(
            self.cpus - num_workers * worker.cpus,
            self.gpus - num_workers * worker.gpus,
            self.memory_gb - num_workers * worker.memory_gb,
            self.gpu,
        )

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"]
        parts += [f"{self.gpus:g} GPU {self.gpu}".rstrip()] if self.gpus else []
        parts += [f"{self.memory_gb:.1f} GiB"] if self.memory_gb else []
        return " + ".join(parts)


class Job(NamedTuple):
    """Something to run: equal workers, and how long it takes in any unit that all jobs share."""

    name: str
    worker: Resources
    num_workers: int = 1
    cost: float = 0.0
    priority: int = 0
    """Higher ones are not delayed by lower ones."""


class Placement(NamedTuple):
    """A job with the node (by position) of each worker."""

    job: Job
    nodes: tuple[int, ...]


class Running(NamedTuple):
    """A job at work, and how much of its cost is still to come."""

    placement: Placement
    remaining: float


class Order(NamedTuple):
    """Jobs in the order in which they are offered what is free."""

    jobs: tuple[Job, ...]
    is_reserving: bool = False
    """The first job that does not fit keeps its place: a later one starts before it only where it ends in time."""


def place(job: Job, free: Sequence[Resources]) -> Placement | None:
    """Nodes for all workers of a job, the fullest that still hold one first; None where they do not all fit."""
    counts = [resources.slots_for(job.worker) for resources in free]
    if sum(counts) < job.num_workers:
        return None
    chosen: list[int] = []
    for node in sorted(range(len(free)), key=lambda node: (free[node].gpus, free[node].cpus, node)):
        chosen += [node] * min(counts[node], job.num_workers - len(chosen))
    return Placement(job, tuple(chosen))


def free_resources(nodes: Sequence[Resources], running: Iterable[Placement]) -> tuple[Resources, ...]:
    """What the running jobs leave of each node."""
    left = list(nodes)
    for placement in running:
        for node, num_workers in Counter(placement.nodes).items():
            left[node] = left[node].less(placement.job.worker, num_workers)
    return tuple(left)


def admit(
    order: Order, running: Sequence[Running], nodes: Sequence[Resources], max_parallel: int | None = None
) -> tuple[Placement, ...]:
    """The jobs to start now.

    Where one does not fit, jobs of lower priority (in a reserving order: all later ones) may only go ahead of it if
    they end before it could start, as in EASY backfilling (Mu'alem and Feitelson, 2001).
    """
    busy, admitted = list(running), list[Placement]()
    free = list(free_resources(nodes, [one.placement for one in running]))
    blocked: Job | None = None
    deadline, refused = 0.0, set[tuple[Resources, int]]()
    for job in order.jobs:
        if max_parallel is not None and len(busy) >= max_parallel:
            break
        is_held = blocked is not None and (order.is_reserving or job.priority < blocked.priority)
        if (is_held and job.cost > deadline) or (job.worker, job.num_workers) in refused:
            continue
        placement = place(job, free)
        if placement is None:
            refused.add((job.worker, job.num_workers))
            if blocked is None:
                blocked, deadline = job, earliest_start(job, busy, free)
            continue
        admitted.append(placement)
        busy.append(Running(placement, job.cost))
        free = list(free_resources(free, [placement]))
    return tuple(admitted)


def earliest_start(job: Job, busy: Iterable[Running], free: Sequence[Resources]) -> float:
    """When enough of the running jobs will have ended for a job to fit; infinite where that will never be."""
    left = list(free)
    for one in sorted(busy, key=lambda one: one.remaining):
        for node, num_workers in Counter(one.placement.nodes).items():
            left[node] = left[node].less(one.placement.job.worker, -num_workers)
        if place(job, left) is not None:
            return one.remaining
    return float("inf")


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
