"""The training plan: resources, layout, steps and position in the queue of every cell, before any is trained. Pure.

Cells that can never be placed, and arms that could not be compared fairly, are refused here with a remedy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cluster.placement import Job, find_placement
from cluster.schedule import best_order, lower_bound, simulate, with_chains
from distill.config.arm_graph import ArmBudget
from distill.config.objectives import Prefer, is_scored_first
from distill.config.recipe import Recipe
from distill.config.students import LoraTune, StudentConfig
from distill.config.train import TrainConfig
from distill.core.errors import ConfigError, Problem
from distill.core.run_dir import RunDir
from distill.models.resolve import ResolvedModel
from distill.models.shape import ModelShape, read_settings, shape_of
from distill.train.budget import num_passes, num_steps, score_flops, train_flops
from distill.train.cells import Cell, num_at_once, trained_before
from distill.train.layout import Layout, choose_layout, suggest_changes, threads_per_worker, worker_resources
from distill.train.machines import Machines


@dataclass(frozen=True)
class MixData:
    """Size of a mix, or an upper bound of it while the mix has not been drawn."""

    rows: int
    """Examples: a pair is one."""
    supervised_tokens: int
    """In one pass."""
    is_upper_bound: bool = False


@dataclass(frozen=True)
class PlannedCell:
    """One cell as the train stage will run it."""

    cell: Cell
    layout: Layout
    job: Job
    rows: int | None
    steps: int | None
    supervised_tokens: int | None
    is_upper_bound: bool
    """Rows, steps under `epochs`, tokens and FLOPs are upper bounds: the mix has not been drawn."""
    flops: float | None
    one_row_reason: str = ""
    """Why the rows of its student are trained in one forward pass each; empty where they share one."""


@dataclass(frozen=True)
class Plan:
    """The cells in the order of the queue."""

    cells: tuple[PlannedCell, ...]
    starts: Mapping[str, float]
    """When each would start, as a share of the makespan."""
    makespan_ratio: float
    """Simulated makespan over the lower bound."""


def plan_cells(
    cells: Sequence[Cell],
    train: TrainConfig,
    *,
    shapes: Mapping[str, ModelShape],
    data: Mapping[str, MixData],
    machines: Machines,
) -> Plan:
    """Lay out every cell and queue them.

    Args:
        cells: of the recipe, or those of them that are still to be trained.
        train: the budget.
        shapes: by name of the model.
        data: by name of the mix; mixes of which nothing is known are absent.
        machines: where they run.

    Raises:
        ConfigError: students that fit nowhere and arms with unequal steps, all of them.
    """
    layouts = {cell.student.name: _layout(cell.student, train, shapes[cell.student.model], machines) for cell in cells}
    students = {cell.student.name: cell.student for cell in cells}
    problems = [
        _layout_problem(student, train, shapes[student.model], machines)
        for name, student in students.items()
        if layouts[name] is None
    ]
    problems += [
        problem for student in students.values() for problem in model_problems(student, train, shapes[student.model])
    ]
    problems += unequal_steps(cells, train, data)
    at_once = num_at_once(cells, train.max_parallel_cells)
    planned = []
    for cell in cells:
        layout, shape, known = layouts[cell.student.name], shapes[cell.student.model], data.get(cell.mix)
        if layout is not None:
            load = _load(cell, train, shape, known)
            job = _job(cell, layout, load.flops or float(shape.num_parameters), machines, at_once)
            planned.append(_planned(cell, layout, load, job, known, shape.one_row_reason))
    problems += list(_unplaceable(planned, machines))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return _scheduled(planned, train, machines)


def _layout(student: StudentConfig, train: TrainConfig, shape: ModelShape, machines: Machines) -> Layout | None:
    memory = machines.worker_memory_gib(student.num_workers, student.gpu)
    return choose_layout(shape, student, train, memory_gib=memory, device=machines.device)


class _Load(NamedTuple):
    """Amount of training of a cell, as far as it is known."""

    rows: int | None
    steps: int | None
    supervised_tokens: int | None
    flops: float | None


def _load(cell: Cell, all_train: TrainConfig, shape: ModelShape, data: MixData | None) -> _Load:
    train = cell.budget(all_train)
    if data is None:
        is_fixed = train.budget != "epochs"
        return _Load(None, train.num_steps if is_fixed else None, train.num_tokens if is_fixed else None, None)
    passes = num_passes(train, data.rows, data.supervised_tokens)
    mean = data.supervised_tokens / max(1, data.rows)
    return _Load(
        rows=data.rows,
        steps=num_steps(train, data.rows),
        supervised_tokens=round(passes * data.supervised_tokens),
        flops=example_flops(cell, shape, mean, max_length=train.max_length) * data.rows * passes,
    )


def example_flops(
    cell: Cell, shape: ModelShape, supervised_tokens: float, *, max_length: int, prompt_tokens: float = 0.0
) -> float:
    """FLOPs of training once on one example: a row, or the two of a pair, which are scored before.

    Args:
        cell: that is trained.
        shape: of its model.
        supervised_tokens: of the example.
        max_length: of a row, tokens.
        prompt_tokens: of each row beside the supervised ones.
    """
    num_rows = 2 if isinstance(cell.objective, Prefer) else 1
    taught = min(max_length, round(supervised_tokens / num_rows))
    lengths = [min(max_length, round(supervised_tokens / num_rows + prompt_tokens))] * num_rows
    scored = score_flops(shape, lengths, taught * num_rows) if is_scored_first(cell.objective) else 0.0
    return train_flops(shape, cell.student.tune, lengths, taught * num_rows) + scored


def _planned(
    cell: Cell, layout: Layout, load: _Load, job: Job, data: MixData | None, one_row_reason: str
) -> PlannedCell:
    is_upper_bound = data is None or data.is_upper_bound
    return PlannedCell(
        cell, layout, job, load.rows, load.steps, load.supervised_tokens, is_upper_bound, load.flops, one_row_reason
    )


def _job(cell: Cell, layout: Layout, cost: float, machines: Machines, at_once: int) -> Job:
    student = cell.student
    memory = layout.memory_gib if machines.device == "cpu" else 0.0
    threads = threads_per_worker(student.num_workers, at_once, machines.nodes, memory)
    worker = worker_resources(machines.device, threads, student.gpu)._replace(memory_gib=memory)
    cost = cost / student.num_workers / threads
    return Job(cell.name, worker, student.num_workers, cost, student.priority, trained_before(cell))


def model_problems(student: StudentConfig, train: TrainConfig, shape: ModelShape) -> Iterator[Problem]:
    """What a student asks of its model and cannot have: longer rows, or adapters on tied embeddings."""
    where = f"students[{student.name}]"
    if shape.context_tokens and train.max_length > shape.context_tokens:
        what = f"train.max_length {train.max_length} is longer than its model's context, {shape.context_tokens} tokens"
        yield Problem(where, what, f"set train.max_length to at most {shape.context_tokens}")
    if isinstance(student.tune, LoraTune) and (tied := student.tune.targeted(shape.tied_tables)):
        what = f"tune.targets has {', '.join(tied)}, which is one matrix with {_others(tied, shape.tied_tables)}: "
        what += "merging would make two of it, and the merged student would not be the one that was trained"
        yield Problem(f"{where}.tune.targets", what, 'leave it out, or set targets = "all-linear", which does')


def _others(names: Sequence[str], tables: Sequence[str]) -> str:
    return ", ".join(name for name in tables if name not in names) or "the other"


def _layout_problem(student: StudentConfig, train: TrainConfig, shape: ModelShape, machines: Machines) -> Problem:
    memory = machines.worker_memory_gib(student.num_workers, student.gpu)
    max_workers = int(sum(node.gpus if machines.device == "gpu" else node.cpus for node in machines.nodes))
    remedy = suggest_changes(shape, student, train, memory_gib=memory, device=machines.device, max_workers=max_workers)
    what = (
        f"{shape.num_parameters / 1e6:,.0f} M parameters ({student.tune.kind}) with rows of {train.max_length} tokens "
        f"do not fit {student.num_workers} x {memory:.1f} GiB ({machines.device}) in any layout"
    )
    return Problem(f"students[{student.name}]", what, remedy)


def _unplaceable(planned: Sequence[PlannedCell], machines: Machines) -> Iterator[Problem]:
    has = ", ".join(map(str, machines.nodes)) or "no node"
    for one in planned:
        if find_placement(one.job, machines.nodes) is None:
            student, slots = one.cell.student, sum(node.slots_for(one.job.worker) for node in machines.nodes)
            what = f"needs {one.job.num_workers} workers of {one.job.worker} at once; the cluster ({has}) holds {slots}"
            remedy = f"set num_workers to at most {slots}" if slots else "add a node that holds one worker"
            yield Problem(f"students[{student.name}]", what, remedy)


def unequal_steps(cells: Sequence[Cell], train: TrainConfig, data: Mapping[str, MixData]) -> list[Problem]:
    """Arms of one student, on as many prompts and after as much other training, that would take different numbers of
    optimiser steps, those of the arms before them included."""
    if train.unmatched:
        return []
    steps: dict[tuple[str, ArmBudget], dict[str, int]] = defaultdict(dict)
    for cell in cells:
        trained = [one for one in cell.lineage if one.merge is None]
        if all(one.mix in data for one in trained):
            total = sum(num_steps(one.budget(train), data[one.mix].rows) for one in trained)
            steps[cell.student.name, cell.amount][cell.mix] = total
    unequal = {
        ", ".join(f"{mix} {count}" for mix, count in equal.items())
        for equal in steps.values()
        if len(set(equal.values())) > 1
    }
    remedy = (
        'set train.budget = "steps" with train.num_steps, or "tokens" with train.num_tokens as well; '
        "train.unmatched = true allows it, for reproducing a comparison that was not fair"
    )
    return [
        Problem("train.budget", f"the arms take different numbers of optimiser steps: {one}", remedy) for one in unequal
    ]


def _scheduled(planned: Sequence[PlannedCell], train: TrainConfig, machines: Machines) -> Plan:
    jobs = with_chains([one.job for one in planned])
    if not jobs:
        return Plan((), {}, 1.0)
    order = best_order(jobs, [], machines.nodes, train.max_parallel_cells)
    schedule = simulate(order, [], machines.nodes, train.max_parallel_cells)
    bound = lower_bound(jobs, [], machines.nodes, train.max_parallel_cells)
    rank_of = {job.name: rank for rank, job in enumerate(order.jobs)}
    queue = sorted(planned, key=lambda one: (schedule.starts[one.job.name], rank_of[one.job.name]))
    starts = {name: start / schedule.makespan for name, start in schedule.starts.items()}
    return Plan(tuple(queue), starts, schedule.makespan / bound)


def resolved_shapes(recipe: Recipe, models: Mapping[str, ResolvedModel]) -> dict[str, ModelShape]:
    """Shapes of the students' models, read from disk."""
    used = {student.model for student in recipe.students}
    return {name: shape_of(read_settings(models[name].folder), recipe.models[name].context_tokens) for name in used}


def read_mix_data(run_dir: RunDir, stage: str = "mix") -> dict[str, MixData]:
    """Rows and supervised tokens of each mix, by the manifest of the stage that wrote it; a row's end token counts."""
    return {
        name: MixData(entry.get("pairs", entry["rows"]), entry["tokens"] + entry["rows"])
        for name, entry in run_dir.arm_entries(stage).items()
        if "rows" in entry and "tokens" in entry
    }


def describe_resources(one: PlannedCell) -> str:
    """Resources of each cell of a student, in a line."""
    recompute = ", activations recomputed" if one.layout.checkpoint_activations else ""
    one_row = f"; one row per forward pass: {one.one_row_reason}" if one.one_row_reason else ""
    worker = one.job.worker._replace(memory_gib=0.0)
    return (
        f"{one.job.num_workers} x {worker}, at most {one.layout.memory_gib:.1f} GiB each; "
        f"ZeRO {describe_zero(one.layout)}, micro-batch {one.layout.micro_batch_size}{recompute}{one_row}"
    )


def describe_zero(layout: Layout) -> str:
    """ZeRO stage of a layout, with offloading, in a word."""
    return f"{layout.zero_stage} + offload" if layout.offload_optimizer else str(layout.zero_stage)
