"""The driver: stages in order, each skipped where its manifest says that it is done."""

import dataclasses
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.units import GIB
from distill.config.recipe import Recipe
from distill.core.errors import DistillError
from distill.core.events import log_event
from distill.core.manifest import Manifest, now
from distill.core.memory import PeakMemory
from distill.core.run_dir import RECIPE, RunDir, StageName
from distill.ops.doctor.preflight import refuse_templates, refuse_unready
from distill.run.context import RunContext
from distill.run.stage_keys import StageState, stages_to_run
from distill.stages import STAGES, Stage


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
        until: the last stage to run; absent: all of them.
        only: the one stage to run; the stages that it reads must be done.

    Raises:
        StageError, InputError: what failed and how to continue; finished work is on disk.
    """
    wanted = stages_to_run({stage.name: stage.reads for stage in STAGES}, states, until=until, only=only)
    stale = [stage for stage in STAGES if stage.name in wanted]
    if not stale:
        return False
    refuse_unready(recipe, base, run_dir)
    show_states(console, states)
    run_dir.write_bytes(recipe.model_dump_json(indent=1).encode(), *RECIPE)
    with ExitStack() as resources:
        context = RunContext(recipe, base, run_dir, console, resources)
        if {stage.name for stage in stale} - {StageName.PROMPTS, StageName.REPORT}:
            refuse_templates(recipe, context.models, console)
        for stage in stale:
            console.print(f"[bold]{STAGES.index(stage) + 1}/{len(STAGES)} {stage.name}[/]")
            run_dir.write_manifest(run_stage(stage, context, states[stage.name]), stage.name)
            assert all(run_dir.exists(*parts) for parts in stage.writes), f"{stage.name} did not write {stage.writes}"
    return True


def show_states(console: Console, states: Mapping[StageName, StageState]) -> None:
    """Print what is kept and what is done again, and why."""
    done = [state.stage for state in states.values() if state.status == "done"]
    if done:
        console.print(f"already done: {', '.join(done)}")
    for state in states.values():
        if state.status == "changed":
            console.print(f"{state.stage} is done again: {state.reason} changed")


def run_stage(stage: Stage, context: RunContext, state: StageState) -> Manifest:
    """Run a stage; its manifest with key, code version, wall time and peak memory."""
    about = {"run": context.run_dir.address, "stage": stage.name}
    log_event("stage begins", **about, recipe=context.recipe.name, why=state.reason)
    with _failure_logged(about), PeakMemory() as memory:
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
