"""Machines that an autoscaler adds: asked for and waited for.

A queue that only looked at the nodes that are up would never let a group grow from none. An autoscaler looks at work
that waits, so a placement group waits here in the place of the work. (`ray.autoscaler.sdk.request_resources` would be
simpler, but grants nothing at all once the requests of all, those of Ray Train and Ray Data too, exceed the limits.)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.nodes import cluster_nodes
from cluster.placement import Job, Resources, misfits
from cluster.session import is_joined

POLL_S = 1.0


class Demand:
    """Room that is wanted for one job, as Ray sees it."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self._group: Any = None

    def be_for(self, job: Job | None) -> None:
        """Want room for this job in the place of the one before; None: for none."""
        from ray.util.placement_group import placement_group, remove_placement_group

        if job == self.job:
            return
        if self._group is not None:
            remove_placement_group(self._group)
        self.job = job
        self._group = placement_group([job.worker.bundle] * job.num_workers) if job else None


def grow_for(jobs: Sequence[Job], *, deadline_s: float, say: Callable[[str], None]) -> None:
    """Have a cluster grow until every job would fit alone.

    After `deadline_s` nothing more is waited for: what does not fit then is refused by its own check. In a Ray that
    this run started, which cannot grow, nothing is asked and nothing waited for.
    """
    if is_joined() and misfits(jobs, cluster_nodes()):
        with _wanted(largest_of_each(jobs)):
            wait_for_room(jobs, cluster_nodes, deadline_s=deadline_s, say=say)


@contextmanager
def _wanted(jobs: Sequence[Job]) -> Iterator[None]:
    demands = [Demand() for _ in jobs]
    try:
        for demand, job in zip(demands, jobs, strict=True):
            demand.be_for(job)
        yield
    finally:
        for demand in demands:
            demand.be_for(None)


def largest_of_each(jobs: Sequence[Job]) -> list[Job]:
    """The job with most workers of every kind of worker."""
    largest = dict[Resources, Job]()
    for job in jobs:
        known = largest.setdefault(job.worker, job)
        largest[job.worker] = max(known, job, key=lambda one: one.num_workers)
    return list(largest.values())


def wait_for_room(
    jobs: Sequence[Job],
    look: Callable[[], Sequence[Resources]],
    *,
    deadline_s: float,
    say: Callable[[str], None],
    poll_s: float = POLL_S,
) -> bool:
    """Until every job would fit the nodes alone; whether that came before the deadline. `say` is called once."""
    started, is_said = time.monotonic(), False
    while lacking := misfits(jobs, look()):
        if time.monotonic() - started > deadline_s:
            return False
        if not is_said:
            job = max(lacking, key=lambda one: one.num_workers)
            need = f"{job.name} needs {job.num_workers} x ({job.worker})"
            say(f"waiting for machines, at most {deadline_s / 60:g} minutes: {need}; the cluster's autoscaler is asked")
            is_said = True
        time.sleep(poll_s)
    return True
