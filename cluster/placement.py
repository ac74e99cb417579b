"""Places jobs on nodes and decides which start now (backfilling). Pure functions, tested without Ray.

A job is a gang of equal workers that must all fit at once. Jobs are tried in the order that `cluster.schedule` found
best; one that does not fit yet may be overtaken by later ones that do.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cluster.gpus import gpu_kind_request


class Resources(NamedTuple):
    """What a node has, or what one worker needs. A tuple, since simulations create hundreds of thousands of them."""

    cpus: float
    gpus: float = 0.0
    memory_gib: float = 0.0
    """Main memory, GiB. 0 for GPU workers, which need the memory of their own device."""
    gpu: str = ""
    """Of a node: the kinds of its GPUs as Ray names them, for example `H100`, separated by commas. Of a worker: the one
    kind that it needs. Empty: any."""

    def holds(self, other: "Resources") -> bool:
        """Whether the other fits into these resources."""
        fits = self.cpus >= other.cpus and self.gpus >= other.gpus and self.memory_gib >= other.memory_gib
        return fits and self.is_of_kind(other.gpu)

    @property
    def amounts(self) -> tuple[float, float, float]:
        """CPUs, GPUs, memory."""
        return self.cpus, self.gpus, self.memory_gib

    @property
    def bundle(self) -> dict[str, float]:
        """The placement group bundle of one worker. Without memory, which only this queue takes into account."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} | gpu_kind_request(self.gpu) if self.gpus else {})

    def is_of_kind(self, gpu: str) -> bool:
        """Whether a worker that needs this kind of GPU can be here."""
        return not gpu or gpu in self.gpu.split(", ")

    def slots_for(self, worker: "Resources") -> int:
        """How many of these workers fit."""
        if not self.is_of_kind(worker.gpu):
            return 0
        pairs = ((self.cpus, worker.cpus), (self.gpus, worker.gpus), (self.memory_gib, worker.memory_gib))
        # Fractions that were subtracted and added back must still hold what they held before.
        return max(0, int(min(((have + 1e-6) // need for have, need in pairs if need), default=0)))

    def minus(self, worker: "Resources", num_workers: int) -> "Resources":
        """What is left beside this many workers."""
        return Resources(
            self.cpus - num_workers * worker.cpus,
            self.gpus - num_workers * worker.gpus,
            self.memory_gib - num_workers * worker.memory_gib,
            self.gpu,
        )

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"]
        parts += [f"{self.gpus:g} GPU {self.gpu}".rstrip()] if self.gpus else []
        parts += [f"{self.memory_gib:.1f} GiB"] if self.memory_gib else []
        return " + ".join(parts)


class Job(NamedTuple):
    """Equal workers, and how long they run, in any unit that all jobs share."""

    name: str
    worker: Resources
    num_workers: int = 1
    cost: float = 0.0
    priority: int = 0
    """Jobs of higher priority are not delayed by those of lower priority."""
    waits_for: tuple[str, ...] = ()
    """Names of the jobs that must have ended before this one starts."""
    followed_by: float = 0.0
    """Cost of the longest chain of jobs that wait for this one (`cluster.schedule.with_chains`)."""


class Placement(NamedTuple):
    """A job with the node (its index) of each worker."""

    job: Job
    nodes: tuple[int, ...]


class Running(NamedTuple):
    """A running job and its remaining cost."""

    placement: Placement
    remaining: float


class Order(NamedTuple):
    """Jobs in the order in which they are tried."""

    jobs: tuple[Job, ...]
    is_reserving: bool = False
    """The first job that does not fit gets a reservation: a later one may start first only if it ends in time."""


def find_placement(job: Job, free: Sequence[Resources]) -> Placement | None:
    """Nodes for all workers of a job, best fit first (the fullest node that holds one); None where not all fit."""
    counts = [resources.slots_for(job.worker) for resources in free]
    if sum(counts) < job.num_workers:
        return None
    chosen: list[int] = []
    for node in sorted(range(len(free)), key=lambda node: (free[node].gpus, free[node].cpus, node)):
        chosen += [node] * min(counts[node], job.num_workers - len(chosen))
    return Placement(job, tuple(chosen))


def free_resources(nodes: Sequence[Resources], running: Iterable[Placement]) -> tuple[Resources, ...]:
    """What the running jobs leave free on each node."""
    left = list(nodes)
    for placement in running:
        for node, num_workers in Counter(placement.nodes).items():
            left[node] = left[node].minus(placement.job.worker, num_workers)
    return tuple(left)


def ready_jobs(waiting: Sequence[Job], running: Iterable[Placement]) -> list[Job]:
    """The jobs that wait for no other which is itself waiting or running."""
    unfinished = {job.name for job in waiting} | {placement.job.name for placement in running}
    return [job for job in waiting if unfinished.isdisjoint(job.waits_for)]


def admit(
    order: Order, running: Sequence[Running], nodes: Sequence[Resources], max_parallel: int | None = None
) -> tuple[Placement, ...]:
    """The jobs to start now, of those that wait for no unfinished one.

    Where one does not fit, jobs of lower priority (with a reservation: all later ones) may start before it only if they
    end before it could start, as in EASY backfilling (Mu'alem and Feitelson, 2001).
    """
    busy, admitted = list(running), list[Placement]()
    free = list(free_resources(nodes, [one.placement for one in running]))
    blocked: Job | None = None
    deadline, refused = 0.0, set[tuple[Resources, int]]()
    for job in ready_jobs(order.jobs, [one.placement for one in running]):
        if max_parallel is not None and len(busy) >= max_parallel:
            break
        is_held = blocked is not None and (order.is_reserving or job.priority < blocked.priority)
        if (is_held and job.cost > deadline) or (job.worker, job.num_workers) in refused:
            continue
        placement = find_placement(job, free)
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
    """Time until enough running jobs have ended for a job to fit; infinite where it never fits."""
    left = list(free)
    for one in sorted(busy, key=lambda one: one.remaining):
        for node, num_workers in Counter(one.placement.nodes).items():
            left[node] = left[node].minus(one.placement.job.worker, -num_workers)
        if find_placement(job, left) is not None:
            return one.remaining
    return float("inf")


def infeasible_jobs(jobs: Iterable[Job], nodes: Sequence[Resources]) -> tuple[Job, ...]:
    """Jobs that do not fit even when nothing else runs."""
    return tuple(job for job in jobs if find_placement(job, nodes) is None)


def placeable_jobs(jobs: Sequence[Job], nodes: Sequence[Resources]) -> list[Job]:
    """The jobs that fit when nothing else runs, without those that wait for one that does not: what can be ordered."""
    kept, lost = list(jobs), {job.name for job in infeasible_jobs(jobs, nodes)}
    while lost:
        kept = [job for job in kept if job.name not in lost]
        lost = {job.name for job in kept if not lost.isdisjoint(job.waits_for)}
    return kept


def cpus_per_worker(num_workers: int, num_jobs: int, num_cpus: float) -> int:
    """Whole CPUs for each worker, at least one, when as many jobs as possible run at the same time.

    Two jobs with one thread each finish sooner than one after the other with two threads: start-up, rendering and
    saving use a single thread in any case.
    """
    at_once = max(1, min(num_jobs, int(num_cpus // num_workers)))
    return max(1, int(num_cpus // (at_once * num_workers)))
