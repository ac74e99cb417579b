"""Gathers the inputs of a forecast from a recipe, manifests of runs and configs of models. Starts nothing."""

from __future__ import annotations

from dataclasses import replace

from distill.config.benchmarks import DEFINITIONS, BenchmarkConfig
from distill.config.passes import base_model
from distill.config.recipe import Recipe, benchmark_configs
from distill.config.sources import GymSource, PromptSource
from distill.config.teachers import VllmTeacher
from distill.core.errors import ConfigError
from distill.core.run_dir import RECIPE, RunDir
from distill.models.shape import ModelShape
from distill.ops.forecast.calibration import calibrate, is_same_kind, measured_nodes, measured_work, run_machines
from distill.ops.forecast.cell_plan import planned_shape, used_models
from distill.ops.forecast.counted import counted_problems, counted_prompts
from distill.ops.forecast.feasibility import unplaceable
from distill.ops.forecast.stage_times import Calibration, Forecast, Inputs, forecast
from distill.ops.forecast.workload import MeasuredWork, teacher_order, workload
from distill.run.run_recipe import load_run_recipe
from distill.train.cells import cells
from distill.train.machines import Machines
from distill.train.plan import Plan, plan_cells


def model_shapes(recipe: Recipe) -> dict[str, ModelShape]:
    """Shapes of all models that engines run: teachers of ours and students, trained ones by their names too. From the
    hub only configs are fetched."""
    shapes = {name: planned_shape(recipe, name) for name in used_models(recipe)}
    asked = [teacher.model for teacher in recipe.teachers if isinstance(teacher, VllmTeacher)]
    return shapes | {model: shapes[base_model(recipe, model)] for model in asked}


def num_prompts(recipe: Recipe, run_dir: RunDir | None) -> float | None:
    """Prompts of a run: counted where it has read them as the recipe says now, else as the recipe or its generators
    say, else None."""
    counted = counted_prompts(recipe, run_dir)
    if counted is not None:
        return float(counted)
    before = recipe.forecast.num_prompts or _generated(recipe.prompts.sources)
    kept = recipe.prompts.num_prompts
    known = [number for number in (before, kept) if number is not None]
    return float(min(known)) if known else None


def _generated(sources: tuple[PromptSource, ...]) -> int | None:
    sizes = [source.size for source in sources if isinstance(source, GymSource)]
    return sum(sizes) if len(sizes) == len(sources) else None


def num_problems(recipe: Recipe, run_dir: RunDir | None) -> dict[str, float]:
    """Benchmark -> problems; empty where one of them is unknown."""
    counted = counted_problems(recipe, run_dir)
    evaluated = {name: one for name, one in benchmark_configs(recipe).items() if name in recipe.evaluate.benchmarks}
    found = {name: counted.get(name) or _problems(name, one) for name, one in evaluated.items()}
    return {name: float(count) for name, count in found.items() if count} if all(found.values()) else {}


def _problems(name: str, config: BenchmarkConfig) -> int | None:
    source = config.source
    size = source.size if isinstance(source, GymSource) else None
    if name in DEFINITIONS and config.source == DEFINITIONS[name].config.source:
        size = DEFINITIONS[name].num_problems
    known = [number for number in (size, config.num_prompts) if number is not None]
    return min(known) if known else None


def build_inputs(
    recipe: Recipe, machines: Machines, work_done: MeasuredWork, run_dir: RunDir | None, *, plan: Plan | None = None
) -> Inputs | None:
    """Inputs of a forecast; None where the number of prompts is unknown."""
    prompts = num_prompts(recipe, run_dir)
    if prompts is None:
        return None
    shapes = model_shapes(recipe)
    work = workload(recipe, teacher_order(recipe), prompts, work_done)
    data = {name: mix for name, mix in work.mixes.items() if mix.rows}
    if plan is None:
        plan = plan_cells(cells(recipe), recipe.train, shapes=shapes, data=data, machines=machines)
    return Inputs(recipe, work, shapes, num_problems(recipe, run_dir), machines, plan, Calibration())


def forecast_recipe(
    recipe: Recipe, run_dir: RunDir, machines: Machines, *, measured: RunDir | None = None
) -> Forecast | None:
    """The forecast of a recipe; None where the number of its prompts is unknown.

    Args:
        recipe: checked.
        run_dir: of the run, which may not exist yet; what it has done is counted.
        machines: to forecast for.
        measured: a run to take measured rates from; by default the run itself.

    Raises:
        ConfigError: engines or cells that can never be placed.
    """
    source = measured or run_dir
    work_done = measured_work(source, load_run_recipe(source)) if _has_recipe(source) else MeasuredWork()
    inputs = build_inputs(recipe, machines, work_done, run_dir)
    if inputs is None:
        return None
    if problems := unplaceable(recipe, inputs.shapes, machines):
        raise ConfigError(problems)
    if calibration := calibration_of(source, machines):
        inputs = replace(inputs, calibration=calibration)
    return forecast(inputs)


def _has_recipe(run_dir: RunDir) -> bool:
    return run_dir.exists(*RECIPE)


def calibration_of(run_dir: RunDir, machines: Machines) -> Calibration | None:
    """Calibration on a run; None where it ran on machines of another kind or has done nothing yet."""
    machine = run_machines(run_dir)
    if not _has_recipe(run_dir) or machine is None or not is_same_kind(machine, machines):
        return None
    recipe = load_run_recipe(run_dir)
    inputs = build_inputs(recipe, measured_nodes(machine, machines), measured_work(run_dir, recipe), run_dir)
    return calibrate(run_dir, inputs, run_dir.uri) if inputs else None
