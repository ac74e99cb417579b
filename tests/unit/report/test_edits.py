"""The table of edits: what was asked, kept and dropped, how long it became, and what of the wrong ended right."""

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from distill.core.run_dir import RunDir, StageName
from distill.report.build import build_report
from distill.report.data import EditRow
from distill.report.html import render_page
from distill.report.tables import print_report
from tests.fixtures.report_run import make_recipe, make_run

pytestmark = pytest.mark.usefixtures("unrendered_plots")

READER = {"name": "edits", "model": "smol-135m", "style": "short", "reads": "long", "takes": "any"}
COUNTS = {
    "edits": {"kept": 30, "answer changed": 6, "still wrong": 12},
    "changes": {
        "of_correct": 32,
        "correct_end_right": 26,
        "of_wrong": 16,
        "wrong_end_right": 4,
        "source_tokens": 99.6,
        "tokens": 48.2,
        "growth": 0.514,
    },
}


def with_details(run_dir: RunDir, stage: StageName, pools: dict[str, object]) -> None:
    manifest = run_dir.read_manifest(stage)
    assert manifest is not None
    run_dir.write_manifest(dataclasses.replace(manifest, details=manifest.details | {"pools": pools}), stage)


def test_every_edit_that_was_asked_for_is_kept_or_has_a_reason(tmp_path: Path) -> None:
    teachers = [dict(one) for one in make_recipe().model_dump(mode="json")["teachers"]]
    recipe = make_recipe(teachers=[*teachers, READER | {"chat": {"template": "{trace}"}}])
    run_dir = make_run(tmp_path, make_recipe())
    with_details(run_dir, StageName.VERIFY, {"edits": COUNTS, "long": {}})
    with_details(run_dir, StageName.GENERATE, {"edits": {"failed": {"part missing": 2}}})
    report = build_report(recipe, run_dir)
    (row,) = report.edits
    assert isinstance(row, EditRow) and (row.pool, row.reads, row.asked, row.kept) == ("edits", "long", 50, 30)
    assert row.asked == row.kept + sum(row.drops.values())
    assert list(row.drops) == ["still wrong", "answer changed", "part missing"], "the most frequent first"
    console = Console(file=io.StringIO(), width=250)
    print_report(report, console)
    for shown in (render_page(report), console.file.getvalue()):  # type: ignore[attr-defined]
        for text in ("4 of 16, 25 % [10, 49]", "26 of 32, 81 % [65, 91]", "12 still wrong, 6 answer changed", "0.51"):
            assert text in shown


def test_a_reader_whose_every_request_failed_has_its_row(tmp_path: Path) -> None:
    teachers = [dict(one) for one in make_recipe().model_dump(mode="json")["teachers"]]
    recipe = make_recipe(teachers=[*teachers, READER | {"chat": {"template": "{trace}"}}])
    run_dir = make_run(tmp_path, make_recipe())
    none = dict.fromkeys(COUNTS["changes"], 0) | {"source_tokens": None, "tokens": None, "growth": None}
    with_details(run_dir, StageName.VERIFY, {"edits": {"edits": {}, "changes": none}, "long": {}})
    with_details(run_dir, StageName.GENERATE, {"edits": {"failed": {"request failed": 3}}})
    report = build_report(recipe, run_dir)
    (row,) = report.edits
    assert (row.pool, row.asked, row.kept, row.drops) == ("edits", 3, 0, {"request failed": 3})
    assert "3 request failed" in render_page(report)


def test_a_run_without_readers_has_no_such_table(tmp_path: Path) -> None:
    recipe = make_recipe()
    report = build_report(recipe, make_run(tmp_path, recipe))
    assert not report.edits and "<h3>Edits</h3>" not in render_page(report)
