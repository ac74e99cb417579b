"""What the report says of cells that learn preferences."""

import dataclasses
from pathlib import Path

from distill.report.build import build_report
from distill.report.html import render_page
from tests.fixtures.report_run import make_recipe, make_run


def test_a_cell_with_pairs_shows_its_margins_and_the_prompts_without_a_pair(tmp_path: Path) -> None:
    recipe = make_recipe()
    run_dir = make_run(tmp_path, recipe)
    train, mix = run_dir.read_manifest("train"), run_dir.read_manifest("mix")
    assert train is not None and mix is not None
    cell = next(iter(train.details["cells"]))
    found = {"margin": 3.25, "positive": 0.875, "chosen_nll": 0.5, "rejected_nll": 1.5}
    train.details["cells"][cell]["pairs"] = found
    run_dir.write_manifest(train, "train")
    entry = {"pairs": 120, "without_pair": {"no wrong trace": 17}}
    details = mix.details | {"mixes": {cell.split("@")[1]: entry}}
    run_dir.write_manifest(dataclasses.replace(mix, details=details), "mix")

    report = build_report(recipe, run_dir)
    (row,) = (one for one in report.cells if one.pairs)
    assert row.cell == cell and row.pairs is not None
    assert (row.pairs.pairs, row.pairs.margin, row.pairs.without_pair) == (120, 3.25, {"no wrong trace": 17})
    page = render_page(report)
    assert "<h3>Preferences</h3>" in page and "17 no wrong trace" in page
    assert "no answer" in page.split("<h3>Preferences</h3>")[0], "the note names a column above it"


def test_a_run_without_pairs_has_no_such_table(tmp_path: Path) -> None:
    recipe = make_recipe()
    assert "Preferences" not in render_page(build_report(recipe, make_run(tmp_path, recipe)))
