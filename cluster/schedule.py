"""The order in which jobs start: several priority rules are simulated, the best is kept and improved. Pure.

Scheduling jobs of several workers with the least makespan is NP-hard (P | size_j | C_max). Longest first with
backfilling comes close for most sets of jobs, not for all: where wide jobs wait, widest first or a reservation is
better. A simulation takes milliseconds, so every rule is tried on the actual jobs, and `lower_bound` says when to stop.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from cluster.placement import Job, Order, Resources, Running, admit

CLOSE_ENOUGH = 1.005
"""The search stops once the makespan is at most this multiple of the lower bound."""
MIN_GAIN = 0.995
"""Longest first suffers least from wrong estimates: another rule needs a makespan below this multiple of its own."""
MAX_TRIALS = 300
MAX_WORK = 400_000
"""The improvement looks at about this many (job, job) pairs in all: the more jobs, the fewer trials."""


@dataclass(frozen=True)
class Schedule:
    """When each job would start, by name, and when the last one would end."""

    starts: dict[str, float]
    makespan: float


def simulate(
    order: Order, running: Sequence[Running], nodes: Sequence[Resources], max_parallel: int | None = None
) -> Schedule:
    """The schedule if jobs are admitted in this order whenever one ends, and take as long as they cost.

    Each must fit the nodes when nothing else runs (`cluster.placement.placeable_jobs`).
    """
    waiting, busy, starts, time = list(order.jobs), list(running), dict[str, float](), 0.0
    while True:
        started = admit(Order(tuple(waiting), order.is_reserving), busy, nodes, max_parallel)
        starts |= {placement.job.name: time for placement in started}
        waiting = [job for job in waiting if job.name not in starts]
        busy += [Running(placement, placement.job.cost) for placement in started]
        if not busy:
            assert not waiting, f"{waiting[0].name} does not fit the nodes"
            return Schedule(starts, time)
        passed = min(one.remaining for one in busy)
        time += passed
        busy = [Running(one.placement, one.remaining - passed) for one in busy if one.remaining > passed]


def with_chains(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, each with the cost of the longest chain of those that wait for it."""
    followers: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        for name in job.waits_for:
            followers[name].append(job)

    @cache
    def chain(name: str) -> float:
        return max((job.cost + chain(job.name) for job in followers[name]), default=0.0)

    return [job._replace(followed_by=chain(job.name)) for job in jobs]


Rule = Callable[[Job], float]

RULES: tuple[Rule, ...] = (
    lambda job: job.cost + job.followed_by,
    lambda job: job.cost * job.num_workers,
    lambda job: job.num_workers + 1e-9 * job.cost,
    lambda job: job.cost * job.num_workers**0.5,
    lambda job: job.cost * (job.worker.cpus + 8 * job.worker.gpus) * job.num_workers,
)
"""Sort keys, highest first: long jobs (with what waits for them), much work, wide jobs, and mixtures. Priorities come
before them."""


def ordered(jobs: Iterable[Job], rule: Rule, *, is_reserving: bool = False) -> Order:
    """Jobs by priority, then by a rule, then by name."""
    return Order(tuple(sorted(jobs, key=lambda job: (-job.priority, -rule(job), job.name))), is_reserving)


def best_order(
    jobs: Sequence[Job], running: Sequence[Running], nodes: Sequence[Resources], max_parallel: int | None = None
) -> Order:
    """The order with the shortest simulated makespan. Deterministic."""
    if len(jobs) < 2:
        return Order(tuple(jobs))
    goal = CLOSE_ENOUGH * lower_bound(jobs, running, nodes, max_parallel)
    best = longest_first = ordered(jobs, RULES[0])
    shortest = usual = simulate(best, running, nodes, max_parallel).makespan
    if shortest <= goal:
        return best
    for rule, is_reserving in product(RULES, (False, True)):
        order = ordered(jobs, rule, is_reserving=is_reserving)
        makespan = simulate(order, running, nodes, max_parallel).makespan
        if makespan < shortest:
            best, shortest = order, makespan
        if shortest <= goal:
            break
    best, shortest = _improved(best, shortest, goal, lambda order: simulate(order, running, nodes, max_parallel))
    return best if shortest < MIN_GAIN * usual else longest_first


def _improved(order: Order, makespan: float, goal: float, run: Callable[[Order], Schedule]) -> tuple[Order, float]:
    """Local search: move one job at a time, mostly the one that ends last, and keep the order if it is not worse."""
    rng = random.Random(len(order.jobs))
    schedule = run(order)
    for _ in range(min(MAX_TRIALS, MAX_WORK // len(order.jobs) ** 2)):
        if makespan <= goal:
            break
        tried = _moved(order, schedule, rng)
        found = run(tried)
        if found.makespan <= makespan:
            order, schedule, makespan = tried, found, found.makespan
    return order, makespan


def _moved(order: Order, schedule: Schedule, rng: random.Random) -> Order:
    jobs = list(order.jobs)
    ends_last = max(range(len(jobs)), key=lambda index: schedule.starts[jobs[index].name] + jobs[index].cost)
    source = ends_last if rng.random() < 0.4 else rng.randrange(len(jobs))
    job = jobs.pop(source)
    # Among jobs of the same priority: priority is never traded for time.
    low = next((index for index, other in enumerate(jobs) if other.priority <= job.priority), len(jobs))
    high = next((index for index, other in enumerate(jobs) if other.priority < job.priority), len(jobs))
    jobs.insert(rng.randint(low, high), job)
    is_reserving = order.is_reserving if rng.random() < 0.9 else not order.is_reserving
    return Order(tuple(jobs), is_reserving)


# Lower bounds


def lower_bound(
    jobs: Sequence[Job], running: Sequence[Running], nodes: Sequence[Resources], max_parallel: int | None = None
) -> float:
    """A time before which no schedule can end (priorities aside).

    Each view assigns sizes to jobs so that at most a capacity fits at once: workers over the slots of each kind of
    worker, and shares of nodes by CPUs, GPUs and memory, rounded by dual feasible functions, which account for the fact
    that jobs of slightly more than half a node do not share one. `_size_bounds` then bounds the time of each view.
    """
    work = [(job, job.cost) for job in jobs] + [(one.placement.job, one.remaining) for one in running]
    bounds = [cost + job.followed_by for job, cost in work]
    for worker in {job.worker for job, _ in work}:
        slots = sum(node.slots_for(worker) for node in nodes)
        bounds.append(_size_bounds([(job.num_workers, cost) for job, cost in work if job.worker.holds(worker)], slots))
    for number in range(len(nodes[0].amounts) if nodes else 0):
        capacities = {node.amounts[number] for node in nodes}
        if len(capacities) == 1 and (capacity := capacities.pop()):
            shares = [(job, cost, job.worker.amounts[number] / capacity) for job, cost in work]
            bounds += _share_bounds(shares, len(nodes))
    if max_parallel is not None:
        bounds.append(_machines_bound(sorted((cost for _, cost in work), reverse=True), max_parallel))
    return max(bounds, default=0.0)


MAX_PARTS = 6
"""Largest parameter k of the dual feasible functions, which divide a node into k + 1 parts."""


def _share_bounds(work: Sequence[tuple[Job, float, float]], num_nodes: int) -> list[float]:
    """Bounds for (job, cost, share of a node that one worker needs)."""
    views = [[(job.num_workers * share, cost) for job, cost, share in work]]
    views += [
        [(job.num_workers * rounded_share(share, parts), cost) for job, cost, share in work]
        for parts in range(1, MAX_PARTS + 1)
    ]
    return [_size_bounds(view, num_nodes) for view in views]


def rounded_share(share: float, parts: int) -> float:
    """A dual feasible function: shares whose sum is at most 1 keep that property (Fekete and Schepers 2001, u^(k))."""
    scaled = share * (parts + 1)
    return share if abs(scaled - round(scaled)) < 1e-9 else int(scaled) / parts


def _size_bounds(work: Sequence[tuple[float, float]], capacity: float) -> float:
    """The best bound for (size, cost) pairs: jobs too wide to run beside any medium one, in sequence, then the medium
    ones; the narrowest are left out."""
    room = capacity + 1e-9
    bounds = [0.0]
    for limit in {size for size, _ in work if 0 < 2 * size <= room} | {0.0}:
        wide = sum(cost for size, cost in work if size + limit > room)
        medium = sorted((cost, size) for size, cost in work if size >= limit and size + limit <= room)[::-1]
        if medium:
            wide += max(
                medium[0][0], sum(size * cost for cost, size in medium) / capacity, _parallel_bound(medium, room)
            )
        bounds.append(wide)
    return max(bounds)


def _parallel_bound(longest_first: Sequence[tuple[float, float]], room: float) -> float:
    """A bound from the number of jobs above a certain size that can run at once."""
    at_once = {int(room / size) for _, size in longest_first if size}
    return max(
        (_machines_bound([cost for cost, size in longest_first if size * (q + 1) > room], q) for q in at_once if q),
        default=0.0,
    )


def _machines_bound(longest_first: Sequence[float], at_once: int) -> float:
    """A bound for jobs of which at most `at_once` run at the same time."""
    bound = sum(longest_first) / at_once
    for each in range(1, (len(longest_first) - 1) // at_once + 1):
        # Of the each * at_once + 1 longest jobs, at least each + 1 run in sequence.
        last = each * at_once
        bound = max(bound, sum(longest_first[last - each : last + 1]))
    return bound
