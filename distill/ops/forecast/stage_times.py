"""The forecast of a whole recipe: every stage's seconds, GPU hours and cost, and the bottleneck. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distill.config.recipe import Recipe
from distill.config.teachers import AskedTeacher, EndpointTeacher
from distill.core.run_dir import StageName
from distill.models.shape import ModelShape
from distill.ops.forecast.generate_time import GenerateTime, Group, endpoint_s, engine_groups, generate_time
from distill.ops.forecast.own_answers import own_answers, taught
from distill.ops.forecast.train_eval_time import (
    CellTime,
    EvaluateTime,
    Pace,
    TrainTime,
    answers_per_model,
    devices,
    evaluate_time,
    num_requests,
    train_time,
)
from distill.ops.forecast.workload import Assumption, Workload
from distill.train.machines import Machines
from distill.train.plan import Plan, PlannedCell

ROW_S = {"prompts": 7e-4, "verify": 6e-5, "mix": 3.3e-4, "report": 0.0}
"""Seconds per row of the stages that run in one process: prompts cleaned, traces indexed, traces read by the filters.
Measured on 2026-11-25 on one core of an AMD EPYC (docs/benchmarks/scale.md)."""
RAY_START_S = 15.0


@dataclass(frozen=True)
class Calibration:
    """Rates measured in a run's finished stages. Where a factor is absent, CPUs are not forecast at all."""

    source: str = ""
    """The measured run; empty where there is none."""
    generate: float | None = None
    """Measured over modelled time of the working engines."""
    generate_start_s: float | None = None
    """Of one job's engines, the start of Ray included."""
    train: Mapping[str, float] = field(default_factory=dict)
    """Student -> measured over modelled time of the steps."""
    cell_s: Mapping[str, float] = field(default_factory=dict)
    """Student -> seconds of a cell besides its steps."""
    scorer_start_s: float | None = None
    """Of a process that scores own answers; None: as the recipe assumes for a cell."""
    train_rest_s: float = 0.0
    """Seconds of the stage besides its cells."""
    evaluate: float | None = None
    evaluate_start_s: float | None = None
    """Of one wave (on a CPU: of one engine), with its stop."""
    evaluate_rest_s: float = 0.0
    small_s: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds that do not depend on the number of rows."""


@dataclass(frozen=True)
class StageForecast:
    """One stage. None: not known."""

    stage: str
    seconds: float | None
    device_s: float = 0.0
    """GPU seconds (CPU: thread seconds) of useful work."""
    tokens: float = 0.0
    note: str = ""
    """What takes most of its time."""
    engines: int = 0
    """Of the teachers, together."""


@dataclass(frozen=True)
class ArmCost:
    """What one student costs as one arm, all seeds together. Optimiser steps alone do not compare objectives."""

    student: str
    arm: str
    objective: str
    steps: int | None
    """Of each seed."""
    trained: float
    """Supervised tokens."""
    written: float
    """Tokens that the student writes for its own training."""
    scored: float
    """Of these, tokens that a teacher scores before."""
    device_s: float | None
    """GPU seconds (CPU: thread seconds) of steps, writing and scoring; None: not known."""


@dataclass(frozen=True)
class Forecast:
    """The forecast of a recipe on some machines."""

    stages: tuple[StageForecast, ...]
    work: Workload
    machines: Machines
    usd_per_gpu_hour: float | None
    api_usd: float
    """Paid to endpoints, by their prices per token."""
    calibration: Calibration
    arms: tuple[ArmCost, ...] = ()
    """Every student as every arm that is trained."""

    @property
    def seconds(self) -> float | None:
        """All stages one after another; None where one is not known."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    @property
    def device_s(self) -> float | None:
        """GPU seconds (CPU: thread seconds) of all stages; None where one is not known."""
        return None if self.seconds is None else sum(stage.device_s for stage in self.stages)

    @property
    def num_gpus(self) -> float:
        """Of all nodes."""
        return sum(node.gpus for node in self.machines.nodes)

    def usd(self, seconds: float | None) -> float | None:
        """Price of all machines for so long; idle ones are paid as well."""
        if seconds is None or self.usd_per_gpu_hour is None:
            return None
        return seconds / 3600 * self.num_gpus * self.usd_per_gpu_hour

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """The numbers that it rests on."""
        return self.work.assumptions

    @property
    def longest(self) -> StageForecast:
        """The stage that takes longest."""
        return max(self.stages, key=lambda stage: stage.seconds or 0.0)

    @property
    def bottleneck(self) -> str:
        """The bottleneck in a sentence."""
        if self.seconds is None:
            unknown = ", ".join(stage.stage for stage in self.stages if stage.seconds is None)
            return f"unknown: {unknown} cannot be forecast"
        share = (self.longest.seconds or 0.0) / max(1e-9, self.seconds)
        return f"{self.longest.stage} takes {share:.0%} of the time: {self.longest.note}"


@dataclass(frozen=True)
class Inputs:
    """Inputs of a forecast."""

    recipe: Recipe
    work: Workload
    shapes: Mapping[str, ModelShape]
    """By name of the model, teachers' and students'."""
    problems: Mapping[str, float]
    """Benchmark -> problems."""
    machines: Machines
    plan: Plan
    calibration: Calibration


def forecast(inputs: Inputs) -> Forecast:
    """The stages one after another, as `distill run` does them; a weight search is not forecast."""
    trained = _train_time(inputs)
    found = {
        "prompts": _small("prompts", inputs.work.prompts, inputs),
        "generate": _generate(inputs),
        "verify": _small("verify", inputs.work.traces, inputs),
        "mix": _small("mix", inputs.work.traces, inputs),
        "train": _train(trained, inputs),
        "evaluate": _evaluate(inputs),
        "report": _small("report", 0.0, inputs),
    }
    kind = inputs.machines.gpu
    prices = inputs.recipe.forecast.usd_per_gpu_hour
    price = prices.get(kind.name, kind.usd_per_hour) if kind else None
    return Forecast(
        stages=tuple(found[stage] for stage in StageName if stage in found),
        work=inputs.work,
        machines=inputs.machines,
        usd_per_gpu_hour=price,
        api_usd=sum(_paid(pool.teacher, pool.traces * pool.tokens) for pool in inputs.work.pools),
        calibration=inputs.calibration,
        arms=arm_costs(inputs, trained.cells if trained else {}),
    )


def arm_costs(inputs: Inputs, times: Mapping[str, CellTime]) -> tuple[ArmCost, ...]:
    """Every student as every arm, in the order of the recipe. `times`: of the cells; empty where they are not known."""
    groups: dict[tuple[str, str], list[PlannedCell]] = {}
    for one in inputs.plan.cells:
        groups.setdefault((one.cell.student.name, one.cell.mix), []).append(one)
    places = {mix.name: number for number, mix in enumerate(inputs.recipe.mixes)}
    return tuple(
        _arm_cost(groups[key], inputs, times) for key in sorted(groups, key=lambda key: (key[0], places[key[1]]))
    )


def _arm_cost(cells: Sequence[PlannedCell], inputs: Inputs, times: Mapping[str, CellTime]) -> ArmCost:
    first, work, recipe = cells[0], inputs.work, inputs.recipe
    learnt, own = taught(first, work, recipe), own_answers(first, work, recipe)
    device_s = [
        found.worked_s * devices(one, inputs.machines.device) for one in cells if (found := times.get(one.cell.name))
    ]
    return ArmCost(
        student=first.cell.student.name,
        arm=first.cell.mix,
        objective=first.cell.objective.kind,
        steps=first.steps,
        trained=learnt.examples * learnt.supervised_tokens * len(cells),
        written=own.written * len(cells),
        scored=own.scored * len(cells),
        device_s=sum(device_s) if len(device_s) == len(cells) else None,
    )


def _paid(teacher: object, tokens: float) -> float:
    return tokens / 1e6 * teacher.usd_per_million_tokens if isinstance(teacher, EndpointTeacher) else 0.0


def _small(stage: str, rows: float, inputs: Inputs) -> StageForecast:
    seconds = inputs.calibration.small_s.get(stage, 1.0) + rows * ROW_S[stage]
    return StageForecast(stage, seconds, note="one process reads its rows")


def can_forecast(machines: Machines, factor: float | None) -> bool:
    """Whether times on these machines can be forecast: a kind of GPU with data, or a measured CPU."""
    return machines.gpu is not None if machines.device == "gpu" else factor is not None


def _generate(inputs: Inputs) -> StageForecast:
    work, machines, measured = inputs.work, inputs.machines, inputs.calibration
    groups = engine_groups(inputs.recipe, work.pools, inputs.shapes)
    tokens = sum(pool.traces * pool.tokens for pool in work.pools if isinstance(pool.teacher, AskedTeacher))
    waits = [endpoint_s(pool) for pool in work.pools if isinstance(pool.teacher, EndpointTeacher)]
    if None in waits:
        return StageForecast(
            "generate", None, 0.0, tokens, "an endpoint without requests_per_minute has an unknown rate"
        )
    endpoints_s = max((wait for wait in waits if wait is not None), default=0.0)
    if not groups:
        return StageForecast("generate", RAY_START_S + endpoints_s, 0.0, tokens, "the endpoints' requests_per_minute")
    if not can_forecast(machines, measured.generate):
        return StageForecast("generate", None, 0.0, tokens)
    found = generate_time(groups, work, machines, inputs.recipe)
    factor = measured.generate or 1.0
    start_s = measured.generate_start_s
    start_s = RAY_START_S + inputs.recipe.forecast.engine_start_s if start_s is None else start_s
    seconds = found.num_jobs * start_s + max(endpoints_s, found.busy_s * factor)
    note, engines = _engines_note(found, groups, machines), sum(found.engines.values())
    return StageForecast("generate", seconds, found.device_s * factor, tokens, note, engines)


def _engines_note(found: GenerateTime, groups: Sequence[Group], machines: Machines) -> str:
    """The bottleneck of the slowest teacher's engines, and what would help."""
    rate, count = found.rates[found.slowest], found.engines[found.slowest]
    if machines.device == "cpu":
        return f"{found.slowest}'s engine is bound by the CPU's computation"
    used = max(found.engines[group.name] * group.num_devices for group in groups)
    idle = sum(node.gpus for node in machines.nodes) - used
    note = f"{found.slowest}: {rate.bound} of {count} engines with {rate.batch:,.0f} sequences each ({rate.limit})"
    return note + (f"; {idle:g} GPUs are idle: raise its replicas" if idle >= 1 else "")


def _train_time(inputs: Inputs) -> TrainTime | None:
    """None where times on these machines are not known."""
    measured, recipe = inputs.calibration, inputs.recipe
    mean = sum(measured.train.values()) / len(measured.train) if measured.train else None
    if not can_forecast(inputs.machines, mean):
        return None
    names = [student.name for student in recipe.students]
    assumed = recipe.forecast
    cell_s = sum(measured.cell_s.values()) / len(measured.cell_s) if measured.cell_s else assumed.cell_start_s
    start_s = measured.evaluate_start_s
    pace = Pace(
        factor={name: measured.train.get(name, mean or 1.0) for name in names},
        cell_s={name: measured.cell_s.get(name, cell_s) for name in names},
        write=measured.evaluate or measured.generate or 1.0,
        engine_start_s=assumed.engine_start_s if start_s is None else start_s,
        scorer_start_s=assumed.cell_start_s if measured.scorer_start_s is None else measured.scorer_start_s,
    )
    return train_time(inputs.plan, inputs.work, recipe, inputs.shapes, inputs.machines, pace)


def _train(found: TrainTime | None, inputs: Inputs) -> StageForecast:
    if found is None:
        return StageForecast("train", None)
    seconds = found.seconds + inputs.calibration.train_rest_s
    return StageForecast("train", seconds, found.device_s, found.tokens, _cells_note(found, inputs))


def _cells_note(found: TrainTime, inputs: Inputs) -> str:
    cells = inputs.plan.cells
    idle = sum(node.gpus for node in inputs.machines.nodes) - sum(one.job.num_workers for one in cells)
    if idle > 0:
        return f"{found.longest}, the longest of {len(cells)} cells; all cells together leave {idle:g} GPUs idle"
    return f"{len(cells)} cells share the machines; the longest is {found.longest}"


def _evaluate(inputs: Inputs) -> StageForecast:
    measured, machines = inputs.calibration, inputs.machines
    if not can_forecast(machines, measured.evaluate) or not inputs.problems:
        return StageForecast("evaluate", None, note=_requests_note(inputs) if inputs.problems else "")
    found = evaluate_time(inputs.recipe, inputs.work, inputs.problems, inputs.shapes, machines)
    start_s = measured.evaluate_start_s
    start_s = inputs.recipe.forecast.engine_start_s if start_s is None else start_s
    starts = found.num_engines if machines.device == "cpu" else found.num_waves
    factor = measured.evaluate or 1.0
    seconds = starts * start_s + found.ask_s * factor + measured.evaluate_rest_s
    note = _evaluation_note(found, inputs)
    return StageForecast("evaluate", seconds, found.device_s * factor, found.tokens, note)


def _evaluation_note(found: EvaluateTime, inputs: Inputs) -> str:
    note = f"{found.num_engines} engines in {found.num_waves} waves, {_requests_note(inputs)}"
    window = inputs.recipe.evaluate.max_in_flight
    if inputs.machines.device == "gpu" and found.batch <= window:
        note += f"; evaluate.max_in_flight = {window} keeps each engine at {found.batch:,.0f} requests"
    return note


def _requests_note(inputs: Inputs) -> str:
    answers = answers_per_model(inputs.recipe, inputs.problems)
    requests, made = num_requests(inputs.recipe, inputs.problems)
    of_arms = f", {made:,.0f} of them of evaluation arms" if made else ""
    return f"{answers:,.0f} answers per model, {requests:,.0f} requests{of_arms}"
