"""From a recipe, machines and run directories to a forecast: reads manifests and models' configs, starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from distill.config.benchmarks import DEFINITIONS, BenchmarkConfig
from distill.config.recipe import Recipe, benchmark_configs
from distill.config.sources import GymSource, PromptSource
from distill.config.teachers import VllmTeacher
from distill.core.errors import ConfigError
from distill.core.run_dir import RunDir
from distill.models.shape import ModelShape
from distill.ops.forecast.calibration import calibrate, is_same_kind, measured_nodes, run_facts, run_machines
from distill.ops.forecast.cell_plan import planned_shape
from distill.ops.forecast.feasibility import unplaceable
from distill.ops.forecast.stage_times import Calibration, Forecast, Inputs, forecast
from distill.ops.forecast.workload import Facts, asked_order, workload
from distill.run.context import load_run_recipe
from distill.train.cells import cells
from distill.train.machines import Machines
from distill.train.plan import Plan, plan_cells


def model_shapes(recipe: Recipe) -> dict[str, ModelShape]:
    """Shapes of all models that engines run: teachers of ours and students. From the hub only configs are fetched."""
    used = {teacher.model for teacher in recipe.teachers if isinstance(teacher, VllmTeacher)}
    used |= {student.model for student in recipe.students}
    return {name: planned_shape(recipe, name) for name in sorted(used)}


def num_prompts(recipe: Recipe, run_dir: RunDir | None) -> float | None:
    """Prompts of a run: counted where it has read them, else told, else what generators make; None if nothing says."""
    manifest = run_dir.read_manifest("prompts") if run_dir else None
    if manifest is not None:
        return float(manifest.rows_out)
    told = recipe.forecast.num_prompts or _made(recipe.prompts.sources)
    most = recipe.prompts.num_prompts
    known = [number for number in (told, most) if number is not None]
    return float(min(known)) if known else None


def _made(sources: tuple[PromptSource, ...]) -> int | None:
    sizes = [source.size for source in sources if isinstance(source, GymSource)]
    return sum(sizes) if len(sizes) == len(sources) else None


def num_problems(recipe: Recipe, run_dir: RunDir | None) -> dict[str, float]:
    """Benchmark -> problems; empty where one of them is not known."""
    manifest = run_dir.read_manifest("prompts") if run_dir else None
    counted: Mapping[str, int] = manifest.details.get("benchmarks", {}) if manifest else {}
    found = {name: counted.get(name) or _problems(name, one) for name, one in benchmark_configs(recipe).items()}
    return {name: float(count) for name, count in found.items() if count} if all(found.values()) else {}


def _problems(name: str, config: BenchmarkConfig) -> int | None:
    source = config.source
    size = source.size if isinstance(source, GymSource) else None
    if name in DEFINITIONS and config.source == DEFINITIONS[name].config.source:
        size = DEFINITIONS[name].num_problems
    known = [number for number in (size, config.num_prompts) if number is not None]
    return min(known) if known else None


def build_inputs(
    recipe: Recipe, machines: Machines, facts: Facts, run_dir: RunDir | None, *, plan: Plan | None = None
) -> Inputs | None:
    """What a forecast is made from; None where the number of prompts is not known."""
    prompts = num_prompts(recipe, run_dir)
    if prompts is None:
        return None
    shapes = model_shapes(recipe)
    work = workload(recipe, asked_order(recipe), prompts, facts)
    data = {name: mix for name, mix in work.mixes.items() if mix.rows}
    if plan is None:
        plan = plan_cells(cells(recipe), recipe.train, shapes=shapes, data=data, machines=machines)
    return Inputs(recipe, work, shapes, num_problems(recipe, run_dir), machines, plan, Calibration())


def forecast_recipe(
    recipe: Recipe, run_dir: RunDir, machines: Machines, *, measured: RunDir | None = None
) -> Forecast | None:
    """The forecast of a recipe; None where the number of its prompts is not known.

    Args:
        recipe: checked.
        run_dir: of the run, begun or not: what it has done is counted.
        machines: to forecast for.
        measured: a run to learn rates from; the run's own directory by default.

    Raises:
        ConfigError: engines or cells that can never be placed.
    """
    source = measured or run_dir
    facts = run_facts(source, load_run_recipe(source)) if _is_begun(source) else Facts()
    inputs = build_inputs(recipe, machines, facts, run_dir)
    if inputs is None:
        return None
    if problems := unplaceable(recipe, inputs.shapes, machines):
        raise ConfigError(problems)
    if calibration := calibration_of(source, machines):
        inputs = replace(inputs, calibration=calibration)
    return forecast(inputs)


def _is_begun(run_dir: RunDir) -> bool:
    return bool(run_dir.fs.exists(run_dir.path("recipe.json")))


def calibration_of(run_dir: RunDir, machines: Machines) -> Calibration | None:
    """What a run measured of machines like these; None where it ran on others or did nothing yet."""
    machine = run_machines(run_dir)
    if not _is_begun(run_dir) or machine is None or not is_same_kind(machine, machines):
        return None
    recipe = load_run_recipe(run_dir)
    inputs = build_inputs(recipe, measured_nodes(machine, machines), run_facts(run_dir, recipe), run_dir)
    return calibrate(run_dir, inputs, run_dir.uri) if inputs else None
