"""Stage 7: the evidence of a run as numbers, one self-contained page and a terminal table."""

from distill.report.build import build_report, write_report
from distill.report.data import Report
from distill.report.tables import render_terminal

__all__ = ["Report", "build_report", "render_terminal", "write_report"]
