"""The fleet's decisions: what starts when, and where."""

import random
from collections.abc import Iterable, Sequence

from cluster.placement import (
    Job,
    Placement,
    Resources,
    Running,
    cpus_per_worker,
    find_placement,
    free_resources,
    infeasible_jobs,
)
from cluster.placement import admit as admit_in_order
from cluster.schedule import RULES, ordered
from cluster.vllm_args import engine_bundles
from distill.train.layout import worker_resources

NODE = Resources(cpus=8, gpus=4)


def gpu_job(name: str, workers: int, cost: float = 1.0) -> Job:
    return Job(name, Resources(cpus=1, gpus=1), num_workers=workers, cost=cost)


def admit(
    waiting: Iterable[Job], running: Sequence[Placement], nodes: Sequence[Resources], max_parallel: int | None = None
) -> tuple[Placement, ...]:
    """Longest first."""
    busy = [Running(placement, placement.job.cost) for placement in running]
    return admit_in_order(ordered(waiting, RULES[0]), busy, nodes, max_parallel)


def test_the_longest_job_starts_first() -> None:
    started = admit([gpu_job("short", 4, cost=1), gpu_job("long", 4, cost=9)], [], [NODE])
    assert [placement.job.name for placement in started] == ["long"]


def test_a_job_that_fits_backfills_before_a_longer_one_that_does_not() -> None:
    running = list(admit([gpu_job("first", 3)], [], [NODE]))
    started = admit([gpu_job("big", 2, cost=9), gpu_job("small", 1)], running, [NODE])
    assert [placement.job.name for placement in started] == ["small"]


def test_a_job_starts_only_when_all_its_workers_fit() -> None:
    assert find_placement(gpu_job("five", 5), [NODE]) is None
    assert find_placement(gpu_job("five", 5), [NODE, NODE]) is not None


def test_workers_fill_the_fullest_node_so_that_whole_nodes_stay_free() -> None:
    placement = find_placement(gpu_job("one", 1), [NODE, Resources(cpus=8, gpus=1)])
    assert placement == Placement(gpu_job("one", 1), (1,))


def test_max_parallel_counts_running_jobs_too() -> None:
    running = list(admit([gpu_job("first", 1)], [], [NODE]))
    assert admit([gpu_job("second", 1)], running, [NODE], 1) == ()


def test_jobs_that_can_never_start_are_named() -> None:
    assert [job.name for job in infeasible_jobs([gpu_job("fits", 4), gpu_job("huge", 9)], [NODE])] == ["huge"]


def test_every_job_of_a_random_fleet_runs_once_and_no_node_is_overfilled() -> None:
    chance = random.Random(3)
    for _ in range(50):
        nodes = [NODE] * chance.randint(1, 3)
        waiting = {f"j{n}": gpu_job(f"j{n}", chance.randint(1, 4), chance.random()) for n in range(12)}
        running: list[Placement] = []
        done: list[str] = []
        while waiting or running:
            for placement in admit(waiting.values(), running, nodes):
                running.append(placement)
                del waiting[placement.job.name]
            assert all(node.cpus >= 0 and node.gpus >= 0 for node in free_resources(nodes, running))
            done.append(running.pop(chance.randrange(len(running))).job.name)
        assert sorted(done) == sorted(f"j{n}" for n in range(12))


def test_cells_share_the_cpus_before_they_take_several_each() -> None:
    assert cpus_per_worker(1, num_jobs=6, num_cpus=2) == 1
    assert cpus_per_worker(1, num_jobs=1, num_cpus=2) == 2
    assert cpus_per_worker(2, num_jobs=2, num_cpus=16) == 4
    assert cpus_per_worker(4, num_jobs=2, num_cpus=2) == 1


def test_a_worker_that_must_have_a_kind_of_gpu_is_placed_on_that_kind_only() -> None:
    nodes = [Resources(8, 1, gpu="L4"), Resources(8, 4, gpu="H100"), Resources(8, 4)]
    picky = Job("picky", Resources(cpus=1, gpus=1, gpu="H100"), num_workers=4)
    assert find_placement(picky, nodes) == Placement(picky, (1, 1, 1, 1))
    assert find_placement(picky._replace(num_workers=5), nodes) is None
    assert find_placement(gpu_job("any", 9), nodes) is not None
    assert str(picky.worker) == "1 CPU + 1 GPU H100"


def test_resources_requested_of_ray_name_the_kind_on_gpus_only() -> None:
    assert worker_resources("gpu", 1, "H100").bundle == {"CPU": 1, "GPU": 1, "accelerator_type:H100": 0.001}
    assert worker_resources("gpu", 1).bundle == {"CPU": 1, "GPU": 1}
    assert worker_resources("cpu", 2, "H100").bundle == {"CPU": 2}
    assert engine_bundles("gpu", 2, gpu="L4")["bundles"] == [{"CPU": 1.0, "GPU": 1.0, "accelerator_type:L4": 0.001}] * 2
    assert engine_bundles("cpu", gpu="L4")["bundles"] == [{"CPU": 1.0}]
