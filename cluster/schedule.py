"""The order in which a fleet's jobs start: several rules simulated, the best kept and improved. Pure.

Placing jobs of several workers so that the last one ends as early as possible is NP-hard (P | size_j | C_max). Longest
first with backfilling comes close on most fleets and not on all: where wide jobs wait, widest first or a reservation
is better. A simulation takes milliseconds, so every rule is tried on the very fleet, and `lower_bound` says when to
stop.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from cluster.placement import Job, Order, Resources, Running, admit

CLOSE_ENOUGH = 1.005
"""Nothing more is tried once the makespan is at most this multiple of the lower bound."""
MIN_GAIN = 0.995
"""Longest first, which is least hurt by wrong estimates, is only left for a makespan below this multiple of its own."""
MAX_TRIALS = 300
MAX_WORK = 400_000
"""Improvement looks at about this many (job, job) pairs in all: fewer trials of a larger fleet."""


@dataclass(frozen=True)
class Schedule:
    """When each job would start, by name, and when the last one would end."""

    starts: dict[str, float]
    makespan: float


def simulate(
    order: Order, running: Sequence[Running], nodes: Sequence[Resources], max_parallel: int | None = None
) -> Schedule:
    """What happens if jobs are admitted in this order whenever one ends, and take as long as they cost."""
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


Rule = Callable[[Job], float]

RULES: tuple[Rule, ...] = (
    lambda job: job.cost,
    lambda job: job.cost * job.num_workers,
    lambda job: job.num_workers + 1e-9 * job.cost,
    lambda job: job.cost * job.num_workers**0.5,
    lambda job: job.cost * (job.worker.cpus + 8 * job.worker.gpus) * job.num_workers,
)
"""What comes first: long, much work, wide, and between these. Higher comes first; priorities come before all."""


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
    """Move one job at a time, mostly one that ends last to an earlier place; keep what is not worse."""
    chance = random.Random(len(order.jobs))
    schedule = run(order)
    for _ in range(min(MAX_TRIALS, MAX_WORK // len(order.jobs) ** 2)):
        if makespan <= goal:
            break
        tried = _moved(order, schedule, chance)
        found = run(tried)
        if found.makespan <= makespan:
            order, schedule, makespan = tried, found, found.makespan
    return order, makespan


def _moved(order: Order, schedule: Schedule, chance: random.Random) -> Order:
    jobs = list(order.jobs)
    ends_last = max(range(len(jobs)), key=lambda place: schedule.starts[jobs[place].name] + jobs[place].cost)
    source = ends_last if chance.random() < 0.4 else chance.randrange(len(jobs))
    job = jobs.pop(source)
    # Among its equals: a priority is never traded for time.
    low = next((place for place, other in enumerate(jobs) if other.priority <= job.priority), len(jobs))
    high = next((place for place, other in enumerate(jobs) if other.priority < job.priority), len(jobs))
    jobs.insert(chance.randint(low, high), job)
    is_reserving = order.is_reserving if chance.random() < 0.9 else not order.is_reserving
    return Order(tuple(jobs), is_reserving)


# Lower bounds


def lower_bound(
    jobs: Sequence[Job], running: Sequence[Running], nodes: Sequence[Resources], max_parallel: int | None = None
) -> float:
    """A time before which no schedule can end (priorities aside).

    Every view gives jobs sizes of which at most a capacity fits at once: workers over the slots of each kind of worker,
    and shares of nodes by CPUs, GPUs and memory, rounded by dual feasible functions, which know that two halves and a
    bit do not fit one node. `_size_bounds` then bounds the time of each view.
    """
    work = [(job, job.cost) for job in jobs] + [(one.placement.job, one.remaining) for one in running]
    bounds = [cost for _, cost in work]
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
"""Nodes are cut into at most so many parts and one for the dual feasible functions."""


def _share_bounds(work: Sequence[tuple[Job, float, float]], num_nodes: int) -> list[float]:
    """Bounds for (job, cost, share of a node that one worker takes)."""
    views = [[(job.num_workers * share, cost) for job, cost, share in work]]
    views += [
        [(job.num_workers * rounded_share(share, parts), cost) for job, cost, share in work]
        for parts in range(1, MAX_PARTS + 1)
    ]
    return [_size_bounds(view, num_nodes) for view in views]


def rounded_share(share: float, parts: int) -> float:
    """A dual feasible function: shares that fit one whole still do after it (Fekete and Schepers 2001, u^(k))."""
    scaled = share * (parts + 1)
    return share if abs(scaled - round(scaled)) < 1e-9 else int(scaled) / parts


def _size_bounds(work: Sequence[tuple[float, float]], capacity: float) -> float:
    """The best bound for (size, cost) pairs: jobs too wide to run beside any of the middle ones, one after the other,
    and then the middle ones, of which the narrowest are left out."""
    room = capacity + 1e-9
    bounds = [0.0]
    for limit in {size for size, _ in work if 0 < 2 * size <= room} | {0.0}:
        wide = sum(cost for size, cost in work if size + limit > room)
        middle = sorted((cost, size) for size, cost in work if size >= limit and size + limit <= room)[::-1]
        if middle:
            wide += max(
                middle[0][0], sum(size * cost for cost, size in middle) / capacity, _parallel_bound(middle, room)
            )
        bounds.append(wide)
    return max(bounds)


def _parallel_bound(longest_first: Sequence[tuple[float, float]], room: float) -> float:
    """Of jobs above a certain size only so many run at once."""
    at_once = {int(room / size) for _, size in longest_first if size}
    return max(
        (_machines_bound([cost for cost, size in longest_first if size * (q + 1) > room], q) for q in at_once if q),
        default=0.0,
    )


def _machines_bound(longest_first: Sequence[float], at_once: int) -> float:
    """Bound for jobs of which at most so many run at once."""
    bound = sum(longest_first) / at_once
    for each in range(1, (len(longest_first) - 1) // at_once + 1):
        # Of the each * at_once + 1 longest, some each + 1 run one after the other.
        last = each * at_once
        bound = max(bound, sum(longest_first[last - each : last + 1]))
    return bound
