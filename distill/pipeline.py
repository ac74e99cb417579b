"""The driver: stages in order, each skipped where its manifest says that it is done.

Where a trained student is a teacher the stages up to `train` run once for each pass (`distill.config.passes`), with the
teachers and arms that there can be by then.
"""

import dataclasses
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.units import GIB
from distill.config.passes import passes
from distill.config.recipe import Recipe
from distill.core.errors import DistillError, StageError
from distill.core.events import log_event
from distill.core.full_disk import full_disk_said
from distill.core.manifest import Manifest, now
from distill.core.memory import PeakMemory
from distill.core.run_dir import RECIPE, RunDir, StageName, Training, finished_pass, written_folders
from distill.ops.doctor.preflight import refuse_templates, refuse_unready
from distill.run.context import RunContext
from distill.run.stage_keys import StageState, stage_states, stages_to_run
from distill.stages import STAGES, Stage
from distill.train.stage import cell_keys


def run(
    recipe: Recipe,
    base: Path,
    run_dir: RunDir,
    states: Mapping[StageName, StageState],
    console: Console,
    *,
    until: StageName | None = None,
    only: StageName | None = None,
) -> bool:
    """Bring the stages up to date. Returns whether there was anything to do.

    Args:
        recipe: checked.
        base: folder that the recipe's relative paths are relative to.
        run_dir: where everything is written.
        states: of the stages in it.
        console: for progress.
        until: the last stage to run, in the last pass; absent: all of them.
        only: the one stage to run, in the last pass; the stages that it reads must be done.

    Raises:
        StageError, InputError: what failed and how to continue; finished work is on disk.
    """
    stale = _stale(states, until, only)
    if not stale:
        return False
    refuse_unready(recipe, base, run_dir)
    if StageName.TRAIN in [stage.name for stage in stale]:
        for state in states.values():
            if state.is_redone:  # else a run that ends before them would take them for done
                run_dir.remove_manifest(state.stage)
    run_dir.write_bytes(recipe.model_dump_json(indent=1).encode(), *RECIPE)
    with ExitStack() as resources:
        context = RunContext(recipe, base, run_dir, console, resources)
        earlier = passes(recipe)[:-1] if until != StageName.PROMPTS and only is None else ()
        for number, part in enumerate(earlier, 1):
            context = context.of_pass(part)
            run_pass(context, number)
        if earlier:
            context, states = context.of_pass(recipe), stage_states(recipe, base, run_dir)
            console.print(f"[bold]pass {len(earlier) + 1}: {_students(recipe, len(earlier) + 1)}[/]", highlight=False)
        _run_stages(context, _stale(states, until, only), states)
    return True


def _stale(
    states: Mapping[StageName, StageState], until: StageName | None = None, only: StageName | None = None
) -> list[Stage]:
    wanted = stages_to_run({stage.name: stage.reads for stage in STAGES}, states, until=until, only=only)
    return [stage for stage in STAGES if stage.name in wanted]


def _run_stages(context: RunContext, stale: Sequence[Stage], states: Mapping[StageName, StageState]) -> None:
    run_dir, console = context.run_dir, context.console
    show_states(console, states)
    if {stage.name for stage in stale} - {StageName.PROMPTS, StageName.REPORT}:
        refuse_templates(context.recipe, context.models, console)
    for stage in stale:
        console.print(f"[bold]{STAGES.index(stage) + 1}/{len(STAGES)} {stage.name}[/]")
        if stage.name == StageName.TRAIN:
            require_same_students(context)
        run_dir.write_manifest(run_stage(stage, context, states[stage.name]), stage.name)
        assert all(run_dir.exists(*parts) for parts in stage.writes), f"{stage.name} did not write {stage.writes}"


def run_pass(context: RunContext, number: int) -> None:
    """Train the arms of a pass before the last one; nothing to do where they are trained.

    Its manifest says which cells there are and under which keys: what their students write is known by them.
    """
    recipe, run_dir = context.recipe, context.run_dir
    states = stage_states(recipe, context.base, run_dir)
    key = states[StageName.TRAIN].key
    if run_dir.is_complete(key, *finished_pass(number)) and not _lost_cells(run_dir, number):
        return
    context.console.print(f"[bold]pass {number}: {', '.join(mix.name for mix in recipe.mixes)}[/]", highlight=False)
    # Whatever the manifest of its last stage says: rows may differ under the same keys (`require_same_students`).
    training = [stage for stage in STAGES if stage.name == StageName.TRAIN]
    _run_stages(context, [*_stale(states, StageName.MIX), *training], states)
    keys = cell_keys(recipe, run_dir, context.models)
    done = Manifest(StageName.TRAIN, key, finished_at=now(), details={"cells": keys})
    run_dir.write_manifest(done, *finished_pass(number))


def _lost_cells(run_dir: RunDir, number: int) -> list[str]:
    """The cells of a finished pass whose folders were deleted since, to be trained again."""
    done = run_dir.read_manifest(*finished_pass(number))
    cells = done.details["cells"] if done else ()
    return [cell for cell in cells if not run_dir.has_manifest(*Training(cell).folder)]


def require_same_students(context: RunContext) -> None:
    """That the students which wrote traces are those that the run trains.

    Raises:
        StageError: their rows have changed since, for example because a verdict ERROR was decided when it was graded
            again. The pass that trained them is then done again by the same command.
    """
    number = len(passes(context.recipe)) - 1
    done = context.run_dir.read_manifest(*finished_pass(number)) if number else None
    if done is None:
        return
    keys = cell_keys(context.recipe, context.run_dir, context.models)
    changed = [cell for cell, key in done.details["cells"].items() if keys.get(cell) != key]
    if changed:
        context.run_dir.remove(*finished_pass(number))
        raise StageError(
            f"the rows of {', '.join(changed)} have changed since they were trained and wrote traces -> the same "
            f"command trains them again, and has their students write again"
        )


def _students(recipe: Recipe, number: int) -> str:
    """Who writes in a pass."""
    numbers = recipe.pass_numbers
    return ", ".join(name for name, its in numbers.teachers.items() if its == number)


def show_states(console: Console, states: Mapping[StageName, StageState]) -> None:
    """Print what is kept and what is done again, and why."""
    done = [state.stage for state in states.values() if state.status == "done"]
    if done:
        console.print(f"already done: {', '.join(done)}")
    for state in states.values():
        if state.status == "changed":
            # A name in brackets, teachers[long], is no markup.
            console.print(f"{state.stage} is done again: {state.reason} changed", markup=False)


def run_stage(stage: Stage, context: RunContext, state: StageState) -> Manifest:
    """Run a stage; its manifest with key, code version, wall time and peak memory."""
    about = {"run": context.run_dir.address, "stage": stage.name}
    log_event("stage begins", **about, recipe=context.recipe.name, why=state.reason)
    with _failure_logged(about), full_disk_said(*written_folders(context.run_dir)), PeakMemory() as memory:
        started = time.monotonic()
        manifest = stage.run(context)
        wall_s = round(time.monotonic() - started, 2)
    done: dict[str, Any] = {"rows_in": manifest.rows_in, "rows_out": manifest.rows_out, "drops": dict(manifest.drops)}
    log_event("stage ends", **about, **done, wall_s=wall_s)
    measured = {"peak_memory_gib": round(memory.peak_bytes / GIB, 2), "config": state.config, **machine(context)}
    return dataclasses.replace(
        manifest,
        key=state.key,
        wall_s=wall_s,
        code_version=code_version(),
        finished_at=now(),
        details={**manifest.details, **measured},
    )


@contextmanager
def _failure_logged(about: Mapping[str, str]) -> Iterator[None]:
    try:
        yield
    except DistillError as error:
        log_event("stage fails", run=about["run"], stage=about["stage"], error=str(error))
        raise


def machine(context: RunContext) -> dict[str, Any]:
    """What a stage ran on, for `distill plan`; nothing where it needed no cluster."""
    if not context.is_connected:
        return {}
    session = context.session
    found = {"device": session.device, "cpus": session.num_cpus, "gpus": session.num_gpus, "gpu": session.gpu_name}
    return {"machine": found}


def code_version() -> str:
    """Package version, with the commit where the code is a checkout."""
    release = version("mix-distillation-on-ray")
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return release
    return f"{release}+{commit}"
