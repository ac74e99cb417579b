"""How long training and evaluation take. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cluster.schedule import best_order, simulate, with_chains
from distill.config.recipe import Recipe
from distill.evaluate.arms import ArmOf, arms_of
from distill.evaluate.models import engines_that_fit
from distill.evaluate.requests import benchmark_settings
from distill.evaluate.shared_engines import engines_per_class, may_share
from distill.models.shape import ModelShape
from distill.ops.forecast.own_answers import own_answers, scoring_s, taught, writing_s
from distill.ops.forecast.roofline import SERVED_SEQUENCES, EngineSize, device_kind, engine_rate
from distill.ops.forecast.workload import Workload
from distill.train.cells import all_cells
from distill.train.layout import Device
from distill.train.machines import Machines
from distill.train.plan import Plan, PlannedCell, example_flops

RECOMPUTE_FACTOR = 4 / 3
"""Computation with activation checkpointing over that without."""


@dataclass(frozen=True)
class Pace:
    """Calibrated rates of training."""

    factor: Mapping[str, float]
    """Student -> measured over modelled time of the steps."""
    cell_s: Mapping[str, float]
    """Student -> seconds of a cell besides its steps and its student's own answers."""
    write: float = 1.0
    """Measured over modelled time of engines."""
    engine_start_s: float = 0.0
    """Of an engine that writes a student's own answers."""
    scorer_start_s: float = 0.0
    """Of a process that scores them."""


class CellTime(NamedTuple):
    """Seconds of one cell, starts of its processes included."""

    train_s: float
    """Of the steps."""
    write_s: float
    """Of the engine that writes the student's own answers."""
    score_s: float
    """Of the teachers that score them."""
    rest_s: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self)

    @property
    def worked_s(self) -> float:
        """Of steps, writing and scoring."""
        return self.seconds - self.rest_s


class TrainTime(NamedTuple):
    """Time of all cells."""

    seconds: float
    device_s: float
    """GPU seconds (CPU: thread seconds) of the steps."""
    longest: str
    """The cell that takes longest."""
    tokens: float
    """Trained on, prompts included."""
    cells: Mapping[str, CellTime]
    """Cell -> its time."""


def cell_tokens(one: PlannedCell, work: Workload, recipe: Recipe) -> float:
    """Tokens that a cell is trained on, prompts included."""
    found = taught(one, work, recipe)
    return found.examples * (found.supervised_tokens + found.rows * work.row_prompt_tokens)


def step_s(one: PlannedCell, work: Workload, recipe: Recipe, shape: ModelShape, machines: Machines) -> float:
    """Modelled seconds of a cell's steps."""
    found = taught(one, work, recipe)
    each = example_flops(
        one.cell,
        shape,
        found.supervised_tokens,
        max_length=recipe.train.max_length,
        prompt_tokens=work.row_prompt_tokens,
    )
    factor = RECOMPUTE_FACTOR if one.layout.checkpoint_activations else 1.0
    return each * found.examples * factor / (one.job.num_workers * trained_flops(one, machines, recipe))


def trained_flops(one: PlannedCell, machines: Machines, recipe: Recipe) -> float:
    """FLOPs per second of one worker while it trains."""
    return worker_flops(one, machines) * recipe.forecast.train_flops


def worker_flops(one: PlannedCell, machines: Machines) -> float:
    """Peak FLOPs per second of one worker."""
    number = one.job.worker.cpus if machines.device == "cpu" else 1
    return device_kind(machines).flops * number


def train_time(
    plan: Plan, work: Workload, recipe: Recipe, shapes: Mapping[str, ModelShape], machines: Machines, pace: Pace
) -> TrainTime:
    """All cells, in the order that the queue would choose."""
    times = {one.cell.name: cell_time(one, work, recipe, shapes, machines, pace) for one in plan.cells}
    jobs = with_chains([one.job._replace(cost=times[one.cell.name].seconds) for one in plan.cells])
    order = best_order(jobs, [], machines.nodes, recipe.train.max_parallel_cells)
    schedule = simulate(order, [], machines.nodes, recipe.train.max_parallel_cells)
    device_s = sum(
        found.worked_s * devices(one, machines.device) for one, found in zip(plan.cells, times.values(), strict=True)
    )
    longest = max(jobs, key=lambda job: job.cost, default=None)
    tokens = sum(cell_tokens(one, work, recipe) for one in plan.cells)
    return TrainTime(schedule.makespan, device_s, longest.name if longest else "", tokens, times)


def cell_time(
    one: PlannedCell, work: Workload, recipe: Recipe, shapes: Mapping[str, ModelShape], machines: Machines, pace: Pace
) -> CellTime:
    """The time of one cell by itself."""
    name, shape = one.cell.student.name, shapes[one.cell.student.model]
    factor, own = pace.factor.get(name, 1.0), own_answers(one, work, recipe)
    engine_s = pace.engine_start_s if own.answers else 0.0
    scoring = scoring_s(one, own, recipe, shapes, trained_flops(one, machines, recipe))
    return CellTime(
        train_s=step_s(one, work, recipe, shape, machines) * factor,
        write_s=writing_s(one, own, recipe, shape, machines) * pace.write + engine_s,
        score_s=scoring * factor + own.num_scorers * pace.scorer_start_s,
        rest_s=pace.cell_s.get(name, recipe.forecast.cell_start_s),
    )


def devices(one: PlannedCell, device: Device) -> float:
    """GPUs of a cell (CPU: threads)."""
    return one.job.num_workers * (one.job.worker.cpus if device == "cpu" else 1)


# Evaluation


class ServedEngine(NamedTuple):
    """An engine of the evaluation: one base with its adapters, or students trained in full."""

    model: str
    """A key of `[models]`."""
    num_models: float
    """Models that it serves, each mode and each way of answering counted."""
    names: frozenset[str] = frozenset()
    """Those whose weights it holds: students, and cells."""


class EvaluateTime(NamedTuple):
    """Time of the evaluation."""

    ask_s: float
    device_s: float
    num_engines: int
    num_waves: int
    at_once: int
    tokens: float
    batch: float


def served_engines(recipe: Recipe) -> list[ServedEngine]:
    """The engines in the order in which they are started, without answers that two models write together."""
    modes = {mix.name: max(1, len(mix.modes)) for mix in recipe.mixes}
    made = Counter(_served_name(arm) for arm in arms_of(recipe) if not arm.plan.partner)
    bases = {student.model: ServedEngine(student.model, 1.0) for student in recipe.students}
    for student in recipe.students:
        bases[student.model] = _with_model(bases[student.model], student.name, made[student.name])
    full = []
    for cell in all_cells(recipe):
        count = modes.get(cell.mix, 1) + made[cell.name]
        if cell.has_adapter:
            bases[cell.student.model] = _with_model(bases[cell.student.model], cell.name, count)
        else:
            full.append(ServedEngine(cell.student.model, count, frozenset({cell.name})))
    return [*bases.values(), *full]


def _with_model(engine: ServedEngine, name: str, count: float) -> ServedEngine:
    return engine._replace(num_models=engine.num_models + count, names=engine.names | {name})


def _served_name(arm: ArmOf) -> str:
    """The name under which the student of an evaluation arm is served."""
    return arm.base.partition(":")[0]


def _written_together(recipe: Recipe) -> list[frozenset[str]]:
    """Student and partner of every evaluation arm whose answers two models write."""
    return [frozenset({_served_name(arm), arm.plan.partner}) for arm in arms_of(recipe) if arm.plan.partner]


def shared_engines(recipe: Recipe, engines: Sequence[ServedEngine], at_once: int, device: Device) -> list[ServedEngine]:
    """The engines that are started: students of one base, trained in full, take turns where the evaluation has them so.

    A base with adapters stays apart, as do models that write an answer together, and everything where the recipe
    forbids an exchange of weights.
    """
    if not may_share(recipe.serve):
        return list(engines)
    adapted = {cell.name for cell in all_cells(recipe) if cell.has_adapter}
    alone = adapted.union(*_written_together(recipe))
    apart = [one for one in engines if one.names & alone]
    classes: dict[str, list[ServedEngine]] = defaultdict(list)
    for one in engines:
        if not one.names & alone:
            classes[one.model].append(one)
    most = 1 if device == "cpu" else at_once - len(apart)
    counts = engines_per_class([len(group) for group in classes.values()], most)
    return apart + [
        ServedEngine(
            model,
            sum(one.num_models for one in group[index::count]),
            frozenset().union(*(one.names for one in group[index::count])),
        )
        for (model, group), count in zip(classes.items(), counts, strict=True)
        for index in range(count)
    ]


def evaluation_waves(recipe: Recipe, at_once: int, device: Device) -> list[list[ServedEngine]]:
    """The engines that run at the same time, wave after wave.

    As `distill.evaluate.models.with_partners`: an answer that two models write joins a wave with both engines, else
    theirs run once more, as a wave of their own.
    """
    alone = served_engines(recipe)
    engines = shared_engines(recipe, alone, at_once, device)
    waves = [engines[start : start + at_once] for start in range(0, len(engines), at_once)]
    for both in _written_together(recipe):
        wave = next((one for one in waves if both <= frozenset().union(*(engine.names for engine in one))), None)
        if wave is None:
            wave = [one._replace(num_models=0.0, names=one.names & both) for one in alone if one.names & both]
            waves.append(wave)
        # Which of the two is asked does not matter here: each writes a part of the answer.
        place = next(index for index, one in enumerate(wave) if one.names & both)
        wave[place] = wave[place]._replace(num_models=wave[place].num_models + 1)
    return waves


def engines_at_once(recipe: Recipe, machines: Machines) -> int:
    """Engines that run together."""
    cpus, gpus = sum(node.cpus for node in machines.nodes), sum(node.gpus for node in machines.nodes)
    return engines_that_fit(recipe.serve, machines.device, num_cpus=cpus, num_gpus=gpus)


def num_requests(recipe: Recipe, problems: Mapping[str, float]) -> tuple[float, float]:
    """Requests of the whole evaluation, and how many of them are of evaluation arms."""
    per_model = answers_per_model(recipe, problems)
    models = sum(one.num_models for one in served_engines(recipe)) + len(_written_together(recipe))
    return per_model * models, per_model * sum(1 for _ in arms_of(recipe))


def answers_per_model(recipe: Recipe, problems: Mapping[str, float]) -> float:
    """Answers that one model gives."""
    return sum(count * benchmark_settings(recipe.evaluate, name).num_samples for name, count in problems.items())


def evaluate_time(
    recipe: Recipe, work: Workload, problems: Mapping[str, float], shapes: Mapping[str, ModelShape], machines: Machines
) -> EvaluateTime:
    """All models on all benchmarks. On a CPU one model answers at a time."""
    at_once = engines_at_once(recipe, machines)
    groups = evaluation_waves(recipe, at_once, machines.device)
    is_cpu = machines.device == "cpu"
    ask_s, device_s, batch = 0.0, 0.0, 0.0
    for wave in groups:
        window = float(recipe.evaluate.max_in_flight)
        pairs = [_engine(one, work, recipe, shapes[one.model], machines, window) for one in wave]
        answers = answers_per_model(recipe, problems)
        times = [answers * one.num_models * seconds for one, (seconds, _) in zip(wave, pairs, strict=True)]
        ask_s += sum(times) if is_cpu else max(times)
        device_s += sum(times) * _serve_devices(recipe, machines)
        batch = max([batch, *(found for _, found in pairs)])
    tokens = num_requests(recipe, problems)[0] * work.answer_tokens
    num_engines = sum(map(len, groups))
    return EvaluateTime(ask_s, device_s, num_engines, len(groups), max(map(len, groups)), tokens, batch)


def _serve_devices(recipe: Recipe, machines: Machines) -> int:
    if machines.device == "cpu":
        return machines.engine_threads(is_served=True)
    return recipe.serve.engine.num_gpus


def _engine(
    one: ServedEngine, work: Workload, recipe: Recipe, shape: ModelShape, machines: Machines, window: float
) -> tuple[float, float]:
    """Seconds per answer, and the batch, of an engine with so many open requests."""
    size = EngineSize(shape, _serve_devices(recipe, machines), SERVED_SEQUENCES[machines.device])
    context = work.answer_prompt_tokens + work.answer_tokens / 2
    rate = engine_rate(size, device_kind(machines), recipe.forecast, context_tokens=context, requests=window)
    return work.answer_tokens / rate.tokens_per_s + work.answer_prompt_tokens / rate.prefill_per_s, rate.batch
