"""How early the last cell of a fleet ends: 1,000 random fleets simulated with our order and with others' queues.

    python -m tests.benchmarks.fleet [--fleets N]

Every third fleet is a grid (students x mixes x seeds on GPU nodes), a bag of unrelated jobs on GPU nodes, or a grid on
CPU nodes with threads and memory. A makespan is divided by the fleet's lower bound (`cluster.schedule.lower_bound`),
which no schedule can beat and not every fleet can reach.

* ours: `best_order`; with noisy times it is planned anew whenever a job ends, as the fleet does it.
* fifo: each job in the order of the recipe when it fits, nobody overtakes (a queue without backfilling).
* tune: the order of the recipe, and whatever fits starts (how Ray Tune starts trials whose placement group is ready).
* longest: longest first, and whatever fits starts (list scheduling, Graham 1969).

`noisy` fleets take times that differ from what the planner believes by a factor of exp(N(0, 0.3)); the bound is that of
the true times. The last line is a JSON object.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from cluster.placement import Job, Order, Resources, Running, admit, cpus_per_worker
from cluster.schedule import RULES, best_order, lower_bound, ordered, simulate

NOISE = 0.3
NOISY_SHARE = 5
"""One in so many fleets is also simulated with noise: there it is planned anew at every event, which takes longer."""

Planner = Callable[[Sequence[Job], Sequence[Running], Sequence[Resources]], Order]


@dataclass(frozen=True)
class Fleet:
    """Jobs as the planner sees them, the times that they really take, and the nodes."""

    jobs: tuple[Job, ...]
    times: dict[str, float]
    nodes: tuple[Resources, ...]


def random_fleet(seed: int, *, noise: float) -> Fleet:
    """A fleet that fits its nodes."""
    chance = random.Random(seed)
    jobs, nodes = (_grid, _bag, _cpu_grid)[seed % 3](chance)
    times = {job.name: job.cost * chance.lognormvariate(0.0, noise) for job in jobs}
    return Fleet(tuple(jobs), times, nodes)


def _gpu_nodes(chance: random.Random) -> tuple[Resources, ...]:
    gpus = chance.choice((1, 2, 4, 8))
    return (Resources(cpus=12 * gpus, gpus=gpus),) * chance.randint(1, 4)


def _grid(chance: random.Random) -> tuple[list[Job], tuple[Resources, ...]]:
    nodes = _gpu_nodes(chance)
    total = int(sum(node.gpus for node in nodes))
    widths = [width for width in (1, 1, 2, 4, 8) if width <= total]
    students = [(chance.choice(widths), chance.lognormvariate(0.0, 0.9)) for _ in range(chance.randint(1, 4))]
    mixes = [chance.lognormvariate(0.0, 0.5) for _ in range(chance.randint(2, 5))]
    worker = Resources(cpus=1, gpus=1)
    grid = product(enumerate(students), enumerate(mixes), range(chance.randint(1, 3)))
    return [
        Job(f"{student}-{mix}-{seed}", worker, width, size * tokens / width)
        for (student, (width, size)), (mix, tokens), seed in grid
    ], nodes


def _bag(chance: random.Random) -> tuple[list[Job], tuple[Resources, ...]]:
    nodes = _gpu_nodes(chance)
    total = int(sum(node.gpus for node in nodes))
    worker = Resources(cpus=1, gpus=1)
    return [
        Job(f"{number:02}", worker, chance.randint(1, total), chance.lognormvariate(0.0, 0.8))
        for number in range(chance.randint(3, 60))
    ], nodes


def _cpu_grid(chance: random.Random) -> tuple[list[Job], tuple[Resources, ...]]:
    cpus = chance.choice((2, 4, 8, 16, 32))
    nodes = (Resources(cpus=cpus, memory_gib=4.0 * cpus),) * chance.randint(1, 3)
    total = cpus * len(nodes)
    widths = [chance.choice([width for width in (1, 1, 2) if width <= total]) for _ in range(chance.randint(1, 3))]
    students = [(width, chance.uniform(1.0, min(7.0, 4.0 * cpus / width))) for width in widths]
    mixes = [chance.lognormvariate(0.0, 0.5) for _ in range(chance.randint(2, 5))]
    cells = list(product(enumerate(students), enumerate(mixes), range(chance.randint(1, 3))))
    jobs = []
    for (student, (width, memory)), (mix, tokens), seed in cells:
        threads = min(cpus, cpus_per_worker(width, len(cells), total))
        worker = Resources(cpus=threads, memory_gib=memory)
        jobs.append(Job(f"{student}-{mix}-{seed}", worker, width, memory * tokens / threads / width))
    return jobs, nodes


def makespan(fleet: Fleet, plan: Planner, *, is_strict: bool = False) -> float:
    """What happens when a planner is asked whenever a job ends. A strict queue stops at the first that does not fit."""
    waiting = {job.name: job for job in fleet.jobs}
    busy: list[tuple[Running, float]] = []
    passed = 0.0
    while waiting or busy:
        running = [one for one, _ in busy]
        order = plan(list(waiting.values()), running, fleet.nodes)
        for placement in _strictly(order, running, fleet) if is_strict else admit(order, running, fleet.nodes):
            job = waiting.pop(placement.job.name)
            busy.append((Running(placement, job.cost), fleet.times[job.name]))
        step = min(left for _, left in busy)
        passed += step
        # A job that takes longer than believed is believed to end at any moment.
        busy = [
            (Running(one.placement, max(1e-9, one.remaining - step)), left - step) for one, left in busy if left > step
        ]
    return passed


def _strictly(order: Order, running: Sequence[Running], fleet: Fleet) -> Iterator:  # type: ignore[type-arg]
    busy = list(running)
    for job in order.jobs:
        placements = admit(Order((job,)), busy, fleet.nodes)
        if not placements:
            return
        busy.append(Running(placements[0], job.cost))
        yield placements[0]


def in_recipe_order(jobs: Sequence[Job], running: Sequence[Running], nodes: Sequence[Resources]) -> Order:
    """As they come."""
    return Order(tuple(jobs))


def longest_first(jobs: Sequence[Job], running: Sequence[Running], nodes: Sequence[Resources]) -> Order:
    """By cost alone."""
    return ordered(jobs, RULES[0])


def ratios(seed: int, *, noise: float) -> dict[str, float]:
    """Makespan over the lower bound of the true times, per planner; and the seconds that our planning took."""
    fleet = random_fleet(seed, noise=noise)
    truth = [job._replace(cost=fleet.times[job.name]) for job in fleet.jobs]
    bound = lower_bound(truth, [], fleet.nodes)
    started = time.process_time()
    # Planned once where times are known: planning anew would only find the rest of the same plan.
    order = best_order(fleet.jobs, [], fleet.nodes)
    found = {"seconds": time.process_time() - started}
    found["ours"] = (makespan(fleet, best_order) if noise else simulate(order, [], fleet.nodes).makespan) / bound
    found["fifo"] = makespan(fleet, in_recipe_order, is_strict=True) / bound
    found["tune"] = makespan(fleet, in_recipe_order) / bound
    found["longest"] = makespan(fleet, longest_first) / bound
    return found


def measure(num_fleets: int, *, noise: float) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """Ratios of all fleets, an array per planner."""
    with ProcessPoolExecutor(max_workers=2) as pool:
        rows = list(pool.map(partial(ratios, noise=noise), range(num_fleets), chunksize=10))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def show(title: str, found: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    """A table of quantiles."""
    print(f"{title}: makespan / lower bound")
    for name in ("ours", "longest", "tune", "fifo"):
        of_name = found[name]
        quantiles = "  ".join(f"{label} {np.quantile(of_name, q):.3f}" for label, q in QUANTILES.items())
        print(f"  {name:8} mean {of_name.mean():.3f}  {quantiles}  reached {np.mean(of_name < 1.002):.0%}")


QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


def main() -> None:
    """Measure, show, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--fleets", type=int, default=1000)
    count = parser.parse_args().fleets
    exact, noisy = measure(count, noise=0.0), measure(count // NOISY_SHARE, noise=NOISE)
    show("times as planned", exact)
    show("noisy times", noisy)
    result = {
        "makespan_ratio_p95": round(float(np.quantile(exact["ours"], 0.95)), 4),
        "ratio_vs_tune": round(float((exact["tune"] / exact["ours"]).mean()), 4),
        "ratio_vs_fifo": round(float((exact["fifo"] / exact["ours"]).mean()), 4),
        "ratio_vs_longest": round(float((exact["longest"] / exact["ours"]).mean()), 4),
        "worse_than_tune": round(float((exact["ours"] > 1.0001 * exact["tune"]).mean()), 4),
        "noisy_makespan_ratio_p95": round(float(np.quantile(noisy["ours"], 0.95)), 4),
        "noisy_ratio_vs_tune": round(float((noisy["tune"] / noisy["ours"]).mean()), 4),
        "planning_s_p95": round(float(np.quantile(exact["seconds"], 0.95)), 3),
        "fleets": count,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
