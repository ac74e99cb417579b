"""Mix distillation: prompts -> generate -> verify -> search -> mix -> train -> evaluate -> report, one folder each.

What a program uses is here, and does what the commands of the same names do (docs/library.md). `import distill` costs
nothing: a function imports what it needs when it is called. What a user can mend is raised as a `DistillError`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.config.recipe import Recipe
    from distill.ops.finished_run import FinishedRun, RunPlan
    from distill.report.data import Report

__all__ = ["load_recipe", "load_report", "open_run", "plan_recipe", "run_recipe"]


def load_recipe(recipe: str | Path, *overrides: str) -> Recipe:
    """A recipe, checked.

    Args:
        recipe: path of a TOML file, or the name of a shipped recipe.
        overrides: fields set otherwise, `train.num_epochs=3`.

    Raises:
        ConfigError: it cannot be run; with every problem.
    """
    from distill.config import load  # start time, as all imports here

    return load.load_recipe(load.find_recipe(str(recipe)), overrides)


def run_recipe(
    recipe: str | Path, *overrides: str, run_dir: str | Path = "", until: str | None = None, only: str | None = None
) -> FinishedRun:
    """Bring a run up to date, as `distill run` does; a finished one does nothing.

    Args:
        recipe: path of a TOML file, or the name of a shipped recipe.
        overrides: fields set otherwise, `train.num_epochs=3`.
        run_dir: folder or URI of the run; empty: runs/NAME.
        until: the last stage to run; absent: all of them.
        only: the one stage to run; the stages that it reads must be done.

    Raises:
        DistillError: what failed and how to continue; finished work is on disk.
    """
    from distill.cli.run import run_recipe as bring_up_to_date  # start time
    from distill.config.load import find_recipe  # start time
    from distill.core.errors import InputError  # start time
    from distill.core.stage_names import stage_named  # start time

    checked = load_recipe(recipe, *overrides)
    uri = str(run_dir) or f"runs/{checked.name}"
    if until and only:
        raise InputError(f"until {until!r} and only {only!r}: a last stage or a single one -> give one of them")
    stages = {"until": stage_named(until), "only": stage_named(only)}
    bring_up_to_date(checked, find_recipe(str(recipe)).parent, uri, **stages)
    return open_run(uri)


def plan_recipe(recipe: str | Path, *overrides: str, run_dir: str | Path = "", cluster: str = "") -> RunPlan:
    """What a run would take, as `distill plan` tells it; runs nothing.

    Args:
        recipe: path of a TOML file, or the name of a shipped recipe.
        overrides: fields set otherwise, `train.num_epochs=3`.
        run_dir: folder or URI of the run, which may not exist yet; empty: runs/NAME.
        cluster: `2x8xh100`, two nodes of eight H100; empty: what is here.

    Raises:
        ConfigError: it cannot be run, there or at all.
        InputError: a model cannot be found.
    """
    from distill.config.load import find_recipe  # start time
    from distill.ops.finished_run import plan  # start time

    checked = load_recipe(recipe, *overrides)
    return plan(checked, find_recipe(str(recipe)).parent, str(run_dir) or f"runs/{checked.name}", cluster)


def open_run(run_dir: str | Path) -> FinishedRun:
    """A run that exists, finished or not: its prompts, pools, arms and scores as tables.

    Raises:
        InputError: there is none, or another version wrote it.
    """
    from distill.ops.finished_run import open_finished  # start time

    return open_finished(str(run_dir))


def load_report(run_dir: str | Path) -> Report:
    """The report of a run: scores, comparisons, pools; all numbers of report.html.

    Raises:
        InputError: there is no such run.
    """
    return open_run(run_dir).report()
