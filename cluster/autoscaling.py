"""Requests nodes from Ray's autoscaler with a pending placement group, and waits for them.

A queue that only looks at the nodes that are up would never let a node group grow from zero. The autoscaler looks at
pending work, so a placement group is pending in place of the work. (`ray.autoscaler.sdk.request_resources` would be
simpler, but grants nothing at all once all requests together, those of Ray Train and Ray Data too, exceed the limits.)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.nodes import cluster_nodes
from cluster.placement import Job, Resources, infeasible_jobs
from cluster.session import is_joined

POLL_S = 1.0


class Demand:
    """The resources requested for at most one job, as a placement group."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self._group: Any = None

    def request_for(self, job: Job | None) -> None:
        """Request resources for this job instead of the previous one; None: for no job."""
        from ray.util.placement_group import placement_group, remove_placement_group

        if job == self.job:
            return
        if self._group is not None:
            remove_placement_group(self._group)
        self.job = job
        self._group = placement_group([job.worker.bundle] * job.num_workers) if job else None


def wait_for_nodes(jobs: Sequence[Job], *, deadline_s: float, report: Callable[[str], None]) -> None:
    """Let a cluster grow until every job would fit if it ran alone.

    Returns at the deadline at the latest; jobs that do not fit then are refused by the caller's own check. A Ray that
    this run started itself cannot grow: nothing is requested and nothing waited for.

    Args:
        jobs: the jobs.
        deadline_s: longest wait, seconds.
        report: called once, with a message, if nodes are missing.
    """
    if is_joined() and infeasible_jobs(jobs, cluster_nodes()):
        with _requested(largest_per_worker(jobs)):
            wait_until_feasible(jobs, cluster_nodes, deadline_s=deadline_s, report=report)


@contextmanager
def _requested(jobs: Sequence[Job]) -> Iterator[None]:
    demands = [Demand() for _ in jobs]
    try:
        for demand, job in zip(demands, jobs, strict=True):
            demand.request_for(job)
        yield
    finally:
        for demand in demands:
            demand.request_for(None)


def largest_per_worker(jobs: Sequence[Job]) -> list[Job]:
    """For every kind of worker, the job with the most workers."""
    largest = dict[Resources, Job]()
    for job in jobs:
        known = largest.setdefault(job.worker, job)
        largest[job.worker] = max(known, job, key=lambda one: one.num_workers)
    return list(largest.values())


def wait_until_feasible(
    jobs: Sequence[Job],
    get_nodes: Callable[[], Sequence[Resources]],
    *,
    deadline_s: float,
    report: Callable[[str], None],
    poll_s: float = POLL_S,
) -> bool:
    """Wait until every job would fit the nodes if it ran alone; returns whether that happened before the deadline."""
    started, is_reported = time.monotonic(), False
    while infeasible := infeasible_jobs(jobs, get_nodes()):
        if time.monotonic() - started > deadline_s:
            return False
        if not is_reported:
            job = max(infeasible, key=lambda one: one.num_workers)
            need = f"{job.name} needs {job.num_workers} x ({job.worker})"
            report(f"waiting up to {deadline_s / 60:g} minutes for nodes from the cluster's autoscaler: {need}")
            is_reported = True
        time.sleep(poll_s)
    return True
