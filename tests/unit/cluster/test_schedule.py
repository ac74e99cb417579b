"""The order of the queue: simulated, bounded from below, and never worse than the usual rules."""

import itertools
import random

import numpy as np
import pytest

from cluster.placement import Job, Order, Resources, Running, admit, find_placement
from cluster.schedule import RULES, best_order, lower_bound, ordered, rounded_share, simulate, with_chains
from tests.benchmarks.fleet import random_fleet

GPU = Resources(cpus=1, gpus=1)
NODE = Resources(cpus=48, gpus=4)


def job(name: str, workers: int, cost: float, priority: int = 0) -> Job:
    return Job(name, GPU, workers, cost, priority)


def test_a_simulation_starts_what_fits_whenever_a_job_ends() -> None:
    order = Order((job("a", 3, 5), job("b", 2, 1), job("c", 1, 2)))
    assert simulate(order, [], [NODE]).starts == {"a": 0, "c": 0, "b": 5}


def test_running_jobs_hold_their_workers_for_what_remains_of_them() -> None:
    running = find_placement(job("r", 4, 9), [NODE])
    assert running is not None
    assert simulate(Order((job("a", 1, 1),)), [Running(running, 3.0)], [NODE]).starts == {"a": 3.0}


def test_a_job_starts_when_those_that_it_waits_for_have_ended_and_others_go_on() -> None:
    jobs = (job("child", 1, 3)._replace(waits_for=("parent",)), job("parent", 1, 2), job("other", 4, 4))
    assert simulate(Order(jobs), [], [NODE]).starts == {"parent": 0, "child": 2, "other": 5}
    running = find_placement(jobs[1], [NODE])
    assert running is not None
    assert admit(Order(jobs[:1]), [Running(running, 1.0)], [NODE]) == (), "the parent is still running"
    (placement,) = admit(Order(jobs[:1]), [], [NODE])
    assert placement.job.name == "child", "a parent of an earlier session is no job of this queue"


def test_the_first_job_of_a_long_chain_starts_first() -> None:
    chain = [job("a", 4, 1), job("b", 1, 5)._replace(waits_for=("a",)), job("c", 1, 5)._replace(waits_for=("b",))]
    jobs = with_chains([*chain, job("long", 3, 6)])
    assert {one.name: one.followed_by for one in jobs} == {"a": 10, "b": 5, "c": 0, "long": 0}
    assert lower_bound(jobs, [], [NODE]) >= 11
    assert simulate(best_order(jobs, [], [NODE]), [], [NODE]).makespan == 11


def test_narrow_jobs_do_not_delay_a_wide_one_where_that_costs_time() -> None:
    jobs = [job("wide", 4, 4), *(job(f"n{number}", 3, 5) for number in range(2)), job("s", 1, 9)]
    usual = simulate(ordered(jobs, RULES[0]), [], [NODE]).makespan
    assert simulate(best_order(jobs, [], [NODE]), [], [NODE]).makespan <= usual


def test_a_reservation_lets_others_pass_only_if_they_end_in_time() -> None:
    running = find_placement(job("r", 2, 4), [NODE])
    assert running is not None
    jobs = (job("wide", 4, 9), job("late", 1, 5), job("early", 1, 3))
    for is_reserving, expected in ((True, ["early"]), (False, ["late", "early"])):
        started = admit(Order(jobs, is_reserving), [Running(running, 4.0)], [NODE])
        assert [placement.job.name for placement in started] == expected


def test_a_lower_priority_never_delays_a_higher_one_but_may_use_what_is_free_meanwhile() -> None:
    running = find_placement(job("r", 2, 4), [NODE])
    assert running is not None
    jobs = [job("late", 1, 5), job("early", 1, 3), job("first", 4, 1, priority=1)]
    order = best_order(jobs, [Running(running, 4.0)], [NODE])
    assert order.jobs[0].name == "first"
    schedule = simulate(order, [Running(running, 4.0)], [NODE])
    assert schedule.starts["first"] == 4.0
    assert schedule.starts["early"] == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_no_order_of_a_small_fleet_beats_the_lower_bound_and_ours_is_near_the_best_of_all(seed: int) -> None:
    chance = random.Random(seed)
    if seed % 2:
        nodes = [Resources(cpus=2, memory_gib=8.0)] * 2
        workers = [Resources(cpus=1, memory_gib=chance.uniform(1, 7)) for _ in range(5)]
        jobs = [Job(f"j{n}", worker, 1, chance.uniform(1, 9)) for n, worker in enumerate(workers)]
    else:
        nodes, jobs = [NODE], [job(f"j{n}", chance.randint(1, 4), chance.uniform(1, 9)) for n in range(5)]
    bound = lower_bound(jobs, [], nodes)
    best = min(
        simulate(Order(order, is_reserving), [], nodes).makespan
        for order in itertools.permutations(jobs)
        for is_reserving in (False, True)
    )
    assert bound <= best + 1e-9
    assert simulate(best_order(jobs, [], nodes), [], nodes).makespan <= 1.01 * best


@pytest.mark.parametrize("parts", range(1, 7))
def test_rounded_shares_of_what_fits_a_node_still_fit_it(parts: int) -> None:
    chance = random.Random(parts)
    for _ in range(300):
        shares = [chance.random() for _ in range(chance.randint(1, 6))]
        scale = sum(shares)
        assert sum(rounded_share(share / scale, parts) for share in shares) <= 1 + 1e-9


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_bound_knows_how_many_may_run_at_once(at_once: int) -> None:
    jobs = [job(f"j{n}", 1, 2.0) for n in range(3)]
    assert lower_bound(jobs, [], [NODE], at_once) == simulate(Order(tuple(jobs)), [], [NODE], at_once).makespan


def test_random_fleets_end_close_to_the_bound_and_no_later_than_longest_first() -> None:
    ratios = []
    for seed in range(9):
        fleet = random_fleet(seed, noise=0.0)
        order, bound = best_order(fleet.jobs, [], fleet.nodes), lower_bound(fleet.jobs, [], fleet.nodes)
        ours = simulate(order, [], fleet.nodes).makespan
        usual = simulate(ordered(fleet.jobs, RULES[0]), [], fleet.nodes).makespan
        assert bound - 1e-9 <= ours <= usual + 1e-9
        ratios.append(ours / bound)
    assert np.quantile(ratios, 0.9) < 1.1


def test_the_order_follows_from_the_fleet_alone() -> None:
    fleet = random_fleet(8, noise=0.0)
    assert best_order(fleet.jobs, [], fleet.nodes) == best_order(fleet.jobs, [], fleet.nodes)
