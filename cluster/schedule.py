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

from cluster.fleet import Job, Order, Resources, Running, admit

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

    The largest of: the longest job; the work over the capacity, per resource and per slots of each kind of worker; wide
    jobs that exclude each other; and the pigeonhole of more jobs than can run at once.
    """
    work = [(job, job.cost) for job in jobs] + [(one.placement.job, one.remaining) for one in running]
    bounds = [cost for _, cost in work]
    bounds += [_work_over_capacity(work, nodes, measure) for measure in (_cpus, _gpus, _memory)]
    for worker in {job.worker for job, _ in work}:
        slots = sum(node.slots_for(worker) for node in nodes)
        bounds += _slot_bounds([(job.num_workers, cost) for job, cost in work if job.worker.holds(worker)], slots)
    if max_parallel is not None:
        bounds += _machine_bounds([cost for _, cost in work], max_parallel)
    return max(bounds, default=0.0)


def _cpus(resources: Resources) -> float:
    return resources.cpus


def _gpus(resources: Resources) -> float:
    return resources.gpus


def _memory(resources: Resources) -> float:
    return resources.memory_gb


def _work_over_capacity(
    work: Sequence[tuple[Job, float]], nodes: Sequence[Resources], measure: Callable[[Resources], float]
) -> float:
    capacity = sum(map(measure, nodes))
    return sum(cost * job.num_workers * measure(job.worker) for job, cost in work) / capacity if capacity else 0.0


def _slot_bounds(work: Sequence[tuple[int, float]], slots: int) -> list[float]:
    """Bounds for (width, cost) pairs on so many equal slots."""
    bounds = []
    for limit in {width for width, _ in work if 2 * width <= slots} | {0}:
        # Beside a job wider than slots - limit there is no room for one of width limit: it counts as if it took all
        # slots, and narrower ones as if they took none (a dual feasible function, Fekete and Schepers 2001).
        widths = ((slots if slots - width < limit else 0 if width < limit else width, cost) for width, cost in work)
        bounds.append(sum(width * cost for width, cost in widths) / slots)
    for at_once in range(1, slots + 1):
        wide = [cost for width, cost in work if width * (at_once + 1) > slots]
        bounds += _machine_bounds(wide, at_once)
    return bounds


def _machine_bounds(costs: Sequence[float], at_once: int) -> list[float]:
    """Bounds for jobs of which at most so many run at once."""
    longest = sorted(costs, reverse=True)
    bounds = [sum(costs) / at_once]
    for each in range(1, (len(longest) - 1) // at_once + 1):
        # Of the each * at_once + 1 longest, some each + 1 run one after the other.
        last = each * at_once
        bounds.append(sum(longest[last - each : last + 1]))
    return bounds
