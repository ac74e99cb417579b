"""What the verbs do: a run directory held by one process at a time, libraries quiet, the result shown last.

Libraries that take seconds to import are imported by the verb that needs them: a finished run answers at once.
"""

import time
from pathlib import Path

from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.events import events_in
from distill.core.progress_bars import quiet
from distill.core.run_dir import RunDir, held, log_path
from distill.core.schema import Prompt
from distill.pipeline import run
from distill.run.context import load_run_recipe
from distill.train.cells import cells

EVENTS = "events.jsonl"
"""The run's events, beside what libraries print."""


def launch(recipe: Recipe, base: Path, uri: str) -> int:
    """`distill run`: bring a run up to date and show its report."""
    started = time.monotonic()
    run_dir = RunDir(uri)
    log_file = log_path(run_dir)
    with held(run_dir), quiet(log_file) as console, events_in(log_file.with_name(EVENTS)):
        console.print(f"[bold]{recipe.name}[/] -> {uri}   [dim](libraries' messages: {log_file})[/]")
        had_work = run(recipe, base, run_dir, console)
        if had_work:
            from distill.report import build_report, render_terminal

            console.print(render_terminal(build_report(recipe, run_dir)))
        minutes = (time.monotonic() - started) / 60
        console.print(f"finished in {minutes:.1f} minutes" if had_work else "nothing to do: every stage is done")
        show_next(console, recipe, run_dir)
    return 0


def show_next(console: Console, recipe: Recipe, run_dir: RunDir) -> None:
    """What a person does with a finished run."""
    name = [cell.name for cell in cells(recipe) if cell.student == recipe.students[0]][-1]
    console.print("\nserve the students   distill serve " + run_dir.uri, markup=False)
    console.print(f'ask one of them      distill ask {name} "{sample_problem(recipe, run_dir)}"', markup=False)
    console.print("report               " + run_dir.place("report", "report.html"), markup=False)


def sample_problem(recipe: Recipe, run_dir: RunDir) -> str:
    """A short problem of the first benchmark, of the kind that the students were trained for."""
    name = f"{recipe.evaluate.benchmarks[0]}.parquet"
    table = run_dir.read_table("prompts", "benchmarks", name, row_type=Prompt, columns=("problem",))
    short = [text for text in table.column("problem").to_pylist() if len(text) < 90 and '"' not in text]
    return str(short[0]) if short else "What is 3 + 4?"


def show_report(run_dir: RunDir) -> int:
    """`distill report`."""
    from distill.report import build_report, render_terminal

    console = Console()
    console.print(render_terminal(build_report(load_run_recipe(run_dir), run_dir)))
    console.print("report " + run_dir.place("report", "report.html"), markup=False, soft_wrap=True)
    return 0
