"""Stage 8, report: tables, intervals and plots from scores and manifests, as one self-contained page."""

from distill.core.manifest import Manifest
from distill.core.run_dir import StageName
from distill.report.build import build_report
from distill.report.stored import made_by
from distill.report.tracked import track_scores
from distill.report.write import write_report
from distill.run.context import RunContext


def report_stage(run: RunContext) -> Manifest:
    """Write the report from scores and manifests."""
    report = build_report(run.recipe, run.run_dir)
    path = write_report(report, run.run_dir)
    track_scores(
        run.recipe.train, run.run_dir, report.models, lambda line: run.console.print(f"  {line}", markup=False)
    )
    run.console.print(f"  {path}", markup=False)
    return Manifest(stage=StageName.REPORT, key="", details=made_by())
