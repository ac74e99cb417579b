"""The driver: stages in order, each skipped where its manifest says that it is done."""

import dataclasses
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.errors import DistillError
from distill.core.events import log_event
from distill.core.memory import PeakMemory
from distill.core.run_dir import Manifest, RunDir, now
from distill.ops.doctor.preflight import refuse_unready
from distill.run.context import Run
from distill.run.stage_keys import StageState, stage_states


def run(recipe: Recipe, base: Path, run_dir: RunDir, console: Console) -> bool:
    """Bring every stage up to date. Returns whether there was anything to do.

    Raises:
        StageError, InputError: what failed and how to continue; finished work is on disk.
    """
    states = stage_states(recipe, base, run_dir)
    stale = [state for state in states.values() if state.status != "done"]
    if not stale:
        return False
    refuse_unready(recipe, base, run_dir)
    from distill.stages import STEPS

    show_states(console, states)
    run_dir.write_bytes(recipe.model_dump_json(indent=1).encode(), "recipe.json")
    with ExitStack() as resources:
        current = Run(recipe, base, run_dir, console, resources)
        for number, (stage, step) in enumerate(STEPS.items(), 1):
            if states[stage].status != "done":
                console.print(f"[bold]{number}/{len(STEPS)} {stage}[/]")
                with timed(step, current, states[stage]) as manifest:
                    run_dir.write_manifest(manifest, stage)
    return True


def show_states(console: Console, states: Mapping[str, StageState]) -> None:
    """Say what will be done, and why."""
    done = [state.stage for state in states.values() if state.status == "done"]
    if done:
        console.print(f"kept as they are: {', '.join(done)}")
    for state in states.values():
        if state.status == "changed":
            console.print(f"{state.stage} is done again: {state.reason} changed")


@contextmanager
def timed(step: Callable[[Run], Manifest], current: Run, state: StageState) -> Iterator[Manifest]:
    """Run a stage; complete its manifest with key, code version, wall time and peak memory."""
    started = time.monotonic()
    about = {"run": current.run_dir.uri, "stage": state.stage}
    log_event("stage begins", **about, recipe=current.recipe.name, why=state.reason)
    try:
        with PeakMemory() as memory:
            manifest = step(current)
    except DistillError as error:
        log_event("stage fails", **about, error=str(error))
        raise
    wall_s = time.monotonic() - started
    done: dict[str, Any] = {"rows_in": manifest.rows_in, "rows_out": manifest.rows_out, "drops": dict(manifest.drops)}
    log_event("stage ends", **about, **done, wall_s=round(wall_s, 2))
    yield dataclasses.replace(
        manifest,
        key=state.key,
        wall_s=round(wall_s, 2),
        code_version=code_version(),
        finished_at=now(),
        details={
            **manifest.details,
            "peak_memory_gib": round(memory.peak_bytes / 2**30, 2),
            "config": state.config,
            **machine(current),
        },
    )


def machine(current: Run) -> dict[str, Any]:
    """What a stage ran on, for `distill plan`; nothing where it needed no cluster."""
    if "session" not in vars(current):
        return {}
    session = current.session
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
