"""`distill report`: the tables of a run, and where its report is."""

from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.run_dir import REPORT_PAGE, RunDir
from distill.report.data import Report
from distill.report.stored import stored_report
from distill.report.tables import print_report
from distill.run.run_recipe import load_run_recipe


def show_report(run_dir: RunDir) -> int:
    """Print the tables."""
    console, recipe = Console(), load_run_recipe(run_dir)
    print_report(stored_report(recipe, run_dir) or _built(recipe, run_dir), console)
    console.print("report " + run_dir.address_of(*REPORT_PAGE), markup=False, soft_wrap=True)
    return 0


def _built(recipe: Recipe, run_dir: RunDir) -> Report:
    from distill.report.build import build_report  # start time: a finished run needs no statistics

    return build_report(recipe, run_dir)
