"""`distill run`: one process at a time in a run directory, libraries quiet, the result shown last."""

import time
from pathlib import Path

from rich.console import Console

from cluster.session import prepare_environment
from distill.config.recipe import Recipe
from distill.core.events import events_in
from distill.core.progress_bars import quiet
from distill.core.run_dir import REPORT_PAGE, RunDir, StageName, benchmark_problems, event_path, log_path
from distill.core.run_lock import run_lock
from distill.core.schema import Prompt
from distill.run.stage_keys import stage_states
from distill.train.cells import cells


def run_recipe(recipe: Recipe, base: Path, uri: str, *, until: StageName | None, only: StageName | None) -> int:
    """Bring a run up to date, or the stages that are asked for, and show its report."""
    started = time.monotonic()
    run_dir = RunDir(uri)
    log_file = log_path(run_dir)
    with run_lock(run_dir), quiet(log_file) as console, events_in(event_path(run_dir)):
        console.print(f"[bold]{recipe.name}[/] -> {uri}   [dim](libraries' messages: {log_file})[/]")
        had_work = _run_stale(recipe, base, run_dir, console, until=until, only=only)
        is_whole = run_dir.exists(*REPORT_PAGE) and only is None and until in (None, StageName.REPORT)
        if had_work and is_whole:
            from distill.report.build import build_report  # start time: a finished run needs no statistics
            from distill.report.tables import print_report  # start time

            print_report(build_report(recipe, run_dir), console)
        minutes = (time.monotonic() - started) / 60
        nothing = f"nothing to do: {only or until} is done" if only or until else "nothing to do: every stage is done"
        console.print(f"finished in {minutes:.1f} minutes" if had_work else nothing)
        if is_whole:
            show_next(console, recipe, run_dir)
    return 0


def _run_stale(
    recipe: Recipe, base: Path, run_dir: RunDir, console: Console, *, until: StageName | None, only: StageName | None
) -> bool:
    states = stage_states(recipe, base, run_dir)
    if all(state.status == "done" for state in states.values()):
        return False
    prepare_environment()  # before Ray is imported, by the stages
    # Start time: the stages import torch and vllm, which a finished run can do without.
    from distill.pipeline import run  # start time

    return run(recipe, base, run_dir, states, console, until=until, only=only)


def show_next(console: Console, recipe: Recipe, run_dir: RunDir) -> None:
    """What a person does with a finished run."""
    trained = cells(recipe)
    # The first student may be scored untouched alone, and trained on no arm.
    name = ([cell.name for cell in trained if cell.student == recipe.students[0]] or [trained[-1].name])[-1]
    console.print("\nserve the students   distill serve " + run_dir.uri, markup=False)
    console.print(f'ask one of them      distill ask {name} "{sample_problem(recipe, run_dir)}"', markup=False)
    console.print("report               " + run_dir.address_of(*REPORT_PAGE), markup=False)


def sample_problem(recipe: Recipe, run_dir: RunDir) -> str:
    """A short problem of the first benchmark, of the kind that the students were trained for."""
    problems = benchmark_problems(recipe.evaluate.benchmarks[0])
    table = run_dir.read_table(*problems, row_type=Prompt, columns=("problem",))
    short = [text for text in table.column("problem").to_pylist() if len(text) < 90 and '"' not in text]
    return str(short[0]) if short else "What is 3 + 4?"
