"""`distill report`: the tables of a run, and where its report is."""

from rich.console import Console

from distill.core.run_dir import REPORT_PAGE, RunDir
from distill.report.build import build_report
from distill.report.tables import render_terminal
from distill.run.run_recipe import load_run_recipe


def show_report(run_dir: RunDir) -> int:
    """Print the tables."""
    console = Console()
    console.print(render_terminal(build_report(load_run_recipe(run_dir), run_dir)))
    console.print("report " + run_dir.address_of(*REPORT_PAGE), markup=False, soft_wrap=True)
    return 0
