"""The timeline of training cells: attempts on one clock, drawn with their outcomes."""

import dataclasses
import json
from pathlib import Path

import pytest

from distill.core.run_dir import RunDir
from distill.report.build import build_report
from distill.report.data import Report
from distill.report.html import render_page
from distill.report.plots import timeline_plot
from tests.fixtures.report_run import make_recipe, make_run

EVENTS = {
    "smol-135m@long": [
        {"event": "begin", "at": 1000.0, "host": "a", "pid": 1, "num_workers": 1},
        {"event": "end", "at": 1030.0, "outcome": "lost", "detail": "killed"},
        {"event": "begin", "at": 1040.0, "host": "a", "pid": 2, "num_workers": 1},
        {"event": "resume", "at": 1041.0, "step": 12},
        {"event": "end", "at": 1100.0, "outcome": "done"},
    ],
    "smol-135m@short": [
        {"event": "begin", "at": 1010.0, "host": "a", "pid": 3, "num_workers": 2},
        {"event": "end", "at": 1020.0, "outcome": "done"},
    ],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    recipe = make_recipe()
    folder: Path = tmp_path_factory.mktemp("run")
    run_dir: RunDir = make_run(folder, recipe)
    for cell, events in EVENTS.items():
        run_dir.write_bytes("".join(json.dumps(one) + "\n" for one in events).encode(), "train", cell, "attempts.jsonl")
    return build_report(recipe, run_dir)


def test_attempts_are_shown_in_seconds_since_the_first_began(report: Report) -> None:
    told = [(cell.cell, one.started_at, one.ended_at, one.outcome, one.first_step) for cell, one in report.attempts()]
    assert told == [
        ("smol-135m@long", 0.0, 30.0, "lost", 0),
        ("smol-135m@short", 10.0, 20.0, "done", 0),
        ("smol-135m@long", 40.0, 100.0, "done", 12),
    ]


def test_the_timeline_names_cells_workers_and_where_an_attempt_resumed(report: Report) -> None:
    svg = timeline_plot(report)
    for text in ("smol-135m@long", "smol-135m@short", "2 workers", "from step 12", "since the first worker started"):
        assert text in svg
    assert "When each cell was trained" in render_page(report)


def test_without_attempts_there_is_no_timeline(report: Report) -> None:
    cells = tuple(dataclasses.replace(cell, attempts=()) for cell in report.cells)
    assert "When each cell was trained" not in render_page(dataclasses.replace(report, cells=cells))
