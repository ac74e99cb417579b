"""How long the generate stage takes: the teachers' engines share the GPUs until the last is done. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cluster.placement import Resources
from distill.config.asking_order import asking_order
from distill.config.recipe import Recipe
from distill.config.teachers import EndpointTeacher, EngineConfig, VllmTeacher, engine_key
from distill.generate.ask_policy import plan_jobs
from distill.models.shape import ModelShape
from distill.ops.forecast.roofline import CPU_SEQUENCES, TEACHER_SEQUENCES, EngineSize, Rate, device_kind, engine_rate
from distill.ops.forecast.workload import PoolWork, Workload
from distill.train.machines import Machines

IN_FLIGHT = 1024
"""Prompts that one engine works on at most (`distill.generate.vllm_teacher`: 32 batches of 32)."""


@dataclass(frozen=True)
class Group:
    """Teachers that share one kind of engine, with their work."""

    pools: tuple[PoolWork, ...]
    engine: EngineConfig
    shape: ModelShape
    replicas: tuple[int, int]
    gpu: str = ""
    """Kind of GPU that its engines need. Empty: any."""
    number: int = 1
    """Of the pass in which they are asked."""

    @property
    def name(self) -> str:
        """The teachers' names."""
        return ", ".join(pool.teacher.name for pool in self.pools)

    @property
    def num_devices(self) -> int:
        """GPUs of one engine."""
        return self.engine.num_gpus


class GenerateTime(NamedTuple):
    """Time of the teachers' engines."""

    busy_s: float
    """From the first request to the last answer, all jobs."""
    device_s: float
    """GPU seconds (CPU: thread seconds) in which an engine worked."""
    num_jobs: int
    """Each job starts its own engines."""
    engines: Mapping[str, int]
    """Group -> largest number of engines."""
    slowest: str
    """The group that takes longest."""
    rates: Mapping[str, Rate]


def capacity(group: Group, machines: Machines) -> int:
    """Engines of a group that fit when nothing else runs; on CPUs one per node, whose threads it uses."""
    if machines.device == "cpu":
        return len(machines.nodes)
    return sum(int(node.gpus // group.num_devices) for node in machines.nodes if node.is_of_kind(group.gpu))


def generate_time(groups: Sequence[Group], work: Workload, machines: Machines, recipe: Recipe) -> GenerateTime:
    """The time that all groups take, in jobs of groups that run together."""
    jobs = [job for number in sorted({group.number for group in groups}) for job in _jobs(groups, number, machines)]
    parts = [_job(job, work, machines, recipe) for job in jobs]
    taken = {name: seconds for part in parts for name, seconds in part.seconds.items()}
    return GenerateTime(
        busy_s=sum(part.busy_s for part in parts),
        device_s=sum(part.device_s for part in parts),
        num_jobs=len(jobs),
        engines={name: count for part in parts for name, count in part.engines.items()},
        slowest=max(taken, key=lambda name: taken[name], default=""),
        rates={name: rate for part in parts for name, rate in part.rates.items()},
    )


def _jobs(groups: Sequence[Group], number: int, machines: Machines) -> list[list[Group]]:
    """The groups of a pass that run together."""
    mine = [group for group in groups if group.number == number]
    jobs = plan_jobs([_need(group, machines) for group in mine], machines.nodes)
    return [[mine[position] for position in job] for job in jobs]


def _need(group: Group, machines: Machines) -> Resources:
    workers = group.replicas[0] * group.num_devices
    return Resources(workers, workers, gpu=group.gpu) if machines.device == "gpu" else Resources(workers)


class _JobTime(NamedTuple):
    busy_s: float
    device_s: float
    seconds: dict[str, float]
    """Group -> when it is done."""
    engines: dict[str, int]
    rates: dict[str, Rate]


def _job(groups: Sequence[Group], work: Workload, machines: Machines, recipe: Recipe) -> _JobTime:
    """Engines of several groups: spare GPUs go to the group with most work left."""
    largest = {group.name: min(group.replicas[1], capacity(group, machines)) for group in groups}
    rates = {group.name: _rate(group, max(1, largest[group.name]), work, machines, recipe) for group in groups}
    left = {group.name: _engine_s(group, rates[group.name], work) for group in groups}
    device_s = sum(left[group.name] * _devices(group, machines) for group in groups)
    elapsed, done, peak = 0.0, dict[str, float](), dict.fromkeys(left, 0)
    while left:
        counts = _engine_counts([group for group in groups if group.name in left], left, largest, machines)
        peak = {name: max(peak[name], int(counts.get(name, 0))) for name in peak}
        step = min(left[name] / counts[name] for name in left)
        elapsed += step
        left = {name: rest for name in left if (rest := left[name] - step * counts[name]) > 1e-9}
        done |= {group.name: elapsed for group in groups if group.name not in left and group.name not in done}
    tail = max(_tail_s(group, rates[group.name]) for group in groups)
    return _JobTime(elapsed + tail, device_s, done, {name: max(1, count) for name, count in peak.items()}, rates)


def _devices(group: Group, machines: Machines) -> int:
    return group.num_devices if machines.device == "gpu" else machines.engine_threads(is_served=False)


def _rate(group: Group, engines: int, work: Workload, machines: Machines, recipe: Recipe) -> Rate:
    """The rate of one of the group's engines when so many run."""
    prompts = sum(pool.prompts for pool in group.pools)
    samples = 1 if recipe.generate.stop_early else max(pool.teacher.num_samples for pool in group.pools)
    traces = max(1.0, sum(pool.traces for pool in group.pools))
    tokens = sum(pool.traces * pool.tokens for pool in group.pools) / traces
    read = sum(pool.traces * pool.read_tokens for pool in group.pools) / traces
    own = group.engine.kwargs.get("max_num_seqs")
    default = CPU_SEQUENCES if machines.device == "cpu" else TEACHER_SEQUENCES
    size = EngineSize(group.shape, _devices(group, machines), int(own) if own else default)
    requests = min(prompts / engines, IN_FLIGHT) * samples
    return engine_rate(
        size,
        device_kind(machines),
        recipe.forecast,
        context_tokens=work.prompt_tokens + read + tokens / 2,
        requests=requests,
    )


def _engine_s(group: Group, rate: Rate, work: Workload) -> float:
    """Seconds of one engine for all of the group's traces."""
    return sum(
        pool.traces * (pool.tokens / rate.tokens_per_s + (work.prompt_tokens + pool.read_tokens) / rate.prefill_per_s)
        for pool in group.pools
    )


def _tail_s(group: Group, rate: Rate) -> float:
    """The tail: the last traces are generated alone, at the speed of a single sequence."""
    return max((pool.longest - pool.tokens for pool in group.pools if pool.traces), default=0.0) * rate.step_s


def _engine_counts(
    groups: Sequence[Group], left: Mapping[str, float], largest: Mapping[str, int], machines: Machines
) -> dict[str, float]:
    """Engines of each group at present. On CPUs all groups share the threads of every node."""
    if machines.device == "cpu":
        together = sum(left.values())
        return {group.name: max(1, largest[group.name]) * left[group.name] / together for group in groups}
    spare = sum(node.gpus for node in machines.nodes)
    counts: dict[str, float] = {}
    for group in groups:  # all start with their least number
        counts[group.name] = float(max(1, min(group.replicas[0], largest[group.name])))
        spare -= counts[group.name] * group.num_devices
    while open_groups := [
        group for group in groups if counts[group.name] < largest[group.name] and group.num_devices <= spare
    ]:
        longest = max(open_groups, key=lambda group: left[group.name] / counts[group.name])
        counts[longest.name] += 1
        spare -= longest.num_devices
    return counts


def endpoint_s(pool: PoolWork) -> float | None:
    """Seconds of an endpoint teacher; None where its rate is not set."""
    teacher = pool.teacher
    assert isinstance(teacher, EndpointTeacher)
    return pool.traces * 60 / teacher.requests_per_minute if teacher.requests_per_minute else None


def engine_groups(recipe: Recipe, pools: Sequence[PoolWork], shapes: Mapping[str, ModelShape]) -> list[Group]:
    """The vLLM teachers, grouped by engine as they are asked."""
    work = {pool.teacher.name: pool for pool in pools}
    engines = {name: engine_key(pool.teacher) for name, pool in work.items()}
    numbers = recipe.pass_numbers.teachers
    groups = []
    for names in asking_order([pool.teacher for pool in pools], engines):
        first = work[names[0]].teacher
        if isinstance(first, VllmTeacher):
            members = tuple(work[name] for name in names)
            number = max(numbers[name] for name in names)
            groups.append(Group(members, first.engine, shapes[first.model], first.replicas, first.gpu, number))
    return groups
