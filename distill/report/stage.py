"""Stage 7: the report."""

from distill.core.run_dir import Manifest
from distill.report import build_report, write_report
from distill.run.context import Run


def report_stage(current: Run) -> Manifest:
    """Write the report from scores and manifests."""
    path = write_report(build_report(current.recipe, current.run_dir), current.run_dir)
    current.console.print(f"  {path}", markup=False)
    return Manifest(stage="report", key="")
