"""The training plan of `distill plan`: made before there is a run, and shown as a table."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.storage import IN_PACKAGE
from cluster.units import GIB
from distill.config.arm_graph import arms_by_name, own_steps
from distill.config.match_problems import scorers
from distill.config.mix import BothMix, MixConfig, PairsMix
from distill.config.objectives import Match, Reinforce
from distill.config.pass_order import student_of
from distill.config.passes import base_model, teaching_cell
from distill.config.prompt_sets import sources_of
from distill.config.recipe import Recipe
from distill.config.sources import GymSource
from distill.config.teachers import AskedTeacher, VllmTeacher
from distill.core.run_dir import RunDir, StageName
from distill.core.whole_table import print_whole
from distill.models.engine_check import require_engine
from distill.models.shape import ModelShape, planned_settings, score_memory_bytes, shape_of
from distill.ops.forecast.counted import counted_prompts
from distill.ops.forecast.workload import source_share
from distill.run.stage_keys import stage_states
from distill.train.cells import cells
from distill.train.machines import Machines
from distill.train.plan import MixData, Plan, PlannedCell, describe_zero, plan_cells, read_mix_data


def plan_recipe(recipe: Recipe, base: Path, run_dir: RunDir, machines: Machines) -> Plan:
    """The plan of all cells of a recipe. From the model hub only configs are fetched.

    Args:
        recipe: checked.
        base: folder that the recipe's relative paths are relative to.
        run_dir: of the run, which may not exist yet: finished mixes are counted, others estimated from above.
        machines: to plan for.

    Raises:
        ConfigError: cells that can never be placed, or arms with unequal steps.
        InputError: a model that cannot be found.
    """
    used = {student.model for student in recipe.students}
    shapes = {name: planned_shape(recipe, name) for name in sorted(used)}
    is_mixed = stage_states(recipe, base, run_dir)[StageName.MIX].status == "done"
    data = read_mix_data(run_dir) if is_mixed else expected_data(recipe, run_dir)
    return plan_cells(cells(recipe), recipe.train, shapes=shapes, data=data, machines=machines)


def used_models(recipe: Recipe) -> list[str]:
    """The models that engines of ours run or that are trained."""
    asked = {base_model(recipe, teacher.model) for teacher in recipe.teachers if isinstance(teacher, VllmTeacher)}
    return sorted(asked | {student.model for student in recipe.students})


def fetch_settings(recipe: Recipe, console: Console) -> None:
    """Convert or download, and say so, the models whose sizes are only known after that: a GGUF file has no config.

    Raises:
        InputError: such a model cannot be found.
    """
    for name in used_models(recipe):
        if any(source.startswith(IN_PACKAGE) or source.endswith(".gguf") for source in recipe.models[name].sources):
            planned_settings(name, recipe.models[name], partial(_say, console, name))


def _say(console: Console, name: str, text: str) -> None:
    console.print(f"{name}: {text}", markup=False)


def planned_shape(recipe: Recipe, name: str) -> ModelShape:
    """The shape of one of a recipe's models; from the hub only its config is fetched."""
    config = recipe.models[name]
    settings = planned_settings(name, config)
    require_engine(name, settings)
    return shape_of(settings, config.context_tokens)


def expected_data(recipe: Recipe, run_dir: RunDir) -> dict[str, MixData]:
    """Upper bound of each mix: every prompt solved by every pool, every trace as long as allowed."""
    prompts = _max_prompts(recipe, run_dir)
    if prompts is None:
        return {}
    return {mix.name: _expected(recipe, mix, prompts) for mix in recipe.mixes}


def _max_prompts(recipe: Recipe, run_dir: RunDir) -> int | None:
    counted = counted_prompts(recipe, run_dir)
    if counted is not None:
        return counted
    sizes = [source.size if isinstance(source, GymSource) else None for source in recipe.prompts.sources]
    known = [size for size in sizes if size is not None]
    total = sum(known) if len(known) == len(sizes) else None
    return min((number for number in (total, recipe.prompts.num_prompts) if number is not None), default=None)


def _expected(recipe: Recipe, mix: MixConfig, prompts: int) -> MixData:
    pools = [teacher for teacher in recipe.teachers if teacher.name in mix.shares]
    longest = max(
        (
            teacher.sampling.max_tokens if isinstance(teacher, AskedTeacher) else recipe.train.max_length
            for teacher in pools
        ),
        default=recipe.train.max_length,
    )
    prompts = math.ceil(prompts * source_share(recipe, sources_of(mix)))
    rows = min(prompts, mix.num_prompts or prompts) * (len(mix.shares) if isinstance(mix, BothMix) else 1)
    sides = 2 if isinstance(mix, PairsMix) else 1
    return MixData(rows, rows * sides * min(longest + 1, recipe.train.max_length), is_upper_bound=True)


COLUMNS = (
    "#",
    "cell",
    "workers",
    "memory",
    "ZeRO",
    "micro-batch",
    "recompute",
    "rows",
    "steps",
    "tokens",
    "FLOPs",
    "from",
)


def show_plan(plan: Plan, machines: Machines, console: Console) -> None:
    """Print the plan as a table; upper bounds are marked."""
    memory = f" ({machines.gpu_memory_gib:.0f} GiB each)" if machines.device == "gpu" else ""
    console.print("machines: " + ", ".join(f"{node}{memory}" for node in machines.nodes), markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("cell", "workers") else "right", no_wrap=True)
    for number, one in enumerate(plan.cells, 1):
        table.add_row(str(number), *_row(one), f"{plan.starts[one.cell.name]:.0%}")
    print_whole(table, console)
    if any(one.is_upper_bound for one in plan.cells):
        console.print("≤ is an upper bound: the mix does not exist yet, and every trace counts with its longest length")
    starts = [(one.cell.mix, parent.mix) for one in plan.cells for parent in one.cell.parents]
    for arm, parent in dict.fromkeys(starts):
        console.print(f"{arm}: starts from {parent} and waits for it; steps and tokens are its own", markup=False)
    reasons = {one.cell.student.name: one.one_row_reason for one in plan.cells if one.one_row_reason}
    for student, reason in reasons.items():
        console.print(f"{student}: one row per forward pass: {reason}", markup=False)
    console.print(
        "tokens: supervised ones; memory: estimated per worker, GiB; from: start, as a share of the fleet's time, "
        f"{plan.makespan_ratio:.2f} times the lower bound"
    )


def show_students_work(recipe: Recipe, machines: Machines, console: Console) -> None:
    """Say which trained students write, when, and who scores their answers in how much memory."""
    numbers = recipe.pass_numbers.teachers
    for teacher in recipe.teachers:
        if isinstance(teacher, VllmTeacher) and student_of(teacher):
            what = f"{teacher.name}: written by {teaching_cell(recipe, teacher.model)} in pass {numbers[teacher.name]}"
            console.print(f"{what}, once that is trained", markup=False)
    for mix in recipe.mixes:
        if isinstance(mix.objective, Match):
            longest = mix.objective.max_tokens
            gib = {name: _scoring_gib(recipe, name, longest, machines) for name in scorers(mix)}
            scored = ", ".join(f"{name} ({size:.1f} GiB)" for name, size in gib.items())
            console.print(
                f"{mix.name}: before its training the student of {mix.after} answers every row (at most "
                f"{longest} tokens), and the tokens are scored by {scored}",
                markup=False,
            )


def show_rounds(recipe: Recipe, console: Console) -> None:
    """Say how much students write that are rewarded for their own answers."""
    arms = arms_by_name(recipe.mixes, recipe.merges)
    for mix in recipe.mixes:
        how = mix.objective
        if isinstance(how, Reinforce):
            asked = recipe.train.batch_size * how.steps_per_round
            steps = own_steps(mix, arms, recipe.train.num_steps) or recipe.train.num_steps
            rounds = f"{steps // how.steps_per_round} rounds, each" if steps else "in each round"
            console.print(
                f"{mix.name}: {rounds} {asked} prompts with {how.samples} answers of at most {how.max_tokens} tokens "
                f"({asked * how.samples * how.max_tokens:,} tokens), written and graded before its "
                f"{how.steps_per_round} steps; tokens and FLOPs above are of the traces, not of these answers",
                markup=False,
            )


def _scoring_gib(recipe: Recipe, teacher: str, longest: int, machines: Machines) -> float:
    """Memory at most of scoring answers of so many tokens with a teacher: its weights and what a pass takes."""
    model = next(one.model for one in recipe.teachers if isinstance(one, VllmTeacher) and one.name == teacher)
    weight_bytes = 2 if machines.device == "gpu" else 4
    shape = planned_shape(recipe, base_model(recipe, model))
    return (shape.num_parameters * weight_bytes + score_memory_bytes(shape.vocab, longest, weight_bytes)) / GIB


def _row(one: PlannedCell) -> list[str]:
    sign, layout = "≤ " if one.is_upper_bound else "", one.layout
    fixed = sign if one.rows is not None else ""
    worker = str(one.job.worker._replace(memory_gib=0.0))
    return [
        one.cell.name,
        f"{one.job.num_workers} x {worker}",
        f"{layout.memory_gib:.1f}",
        describe_zero(layout),
        str(layout.micro_batch_size),
        "yes" if layout.checkpoint_activations else "no",
        _number(one.rows, sign),
        _number(one.steps, fixed),
        _number(one.supervised_tokens, fixed),
        "?" if one.flops is None else f"{sign}{one.flops:.1e}",
    ]


def _number(value: int | None, sign: str) -> str:
    return "?" if value is None else f"{sign}{value:,}"
