"""From a `Report` to its three files. Apart from `build`: only the page needs what draws it."""

from distill.core.run_dir import REPORT_JSON, REPORT_PAGE, REPORT_SCORES, RunDir
from distill.report.data import Report
from distill.report.files import report_json, scores_table
from distill.report.html import render_page


def write_report(report: Report, run_dir: RunDir) -> str:
    """Write report.html, report.json and scores.parquet; returns the path of the page. The manifest is the caller's."""
    run_dir.write_table(scores_table(report.models), *REPORT_SCORES)
    run_dir.write_bytes(report_json(report), *REPORT_JSON)
    run_dir.write_bytes(render_page(report).encode(), *REPORT_PAGE)
    return run_dir.path(*REPORT_PAGE)
