"""What cells cost beside their steps, and what they learnt of teachers and pairs, in a synthetic run's report."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from distill.report.build import build_report
from distill.report.data import CellCost, Report
from distill.report.html import render_page
from tests.fixtures.report_run import make_recipe, make_run

SECONDS = {"train": 60.0, "finish": 2.0, "start_up": 8.0}
RESOURCES = {"num_workers": 1, "devices": 2}
IMITATED = {"objective": "imitate", "seconds": SECONDS, "resources": RESOURCES, "steps_s": 50.0}
MATCHED = {
    "objective": "match",
    "steps_s": 50.0,
    "seconds": SECONDS | {"rollouts": 30.0},
    "resources": RESOURCES,
    "rollouts": {"tokens": 900, "seconds": {"write": 20.0, "score_itself": 4.0, "score_long": 6.0, "starts": 5.0}},
}
REWARDED = {
    "objective": "reinforce",
    "steps_s": 15.0,
    "seconds": SECONDS,
    "resources": RESOURCES,
    "rounds": {"answers": 64, "cut": 1, "errors": 0, "tokens": 2000, "write_s": 35.0, "start_s": 4.0},
}
LEARNT = {
    "answers": 12, "mean_tokens": 40.5, "cut_share": 0.25, "self_difference": 0.0123, "start_kl": 0.5,
    "start_kl_first": 0.1, "start_kl_middle": 0.4, "start_kl_last": 1.1, "end_student": 0.96, "end_teacher": 0.72,
}  # fmt: skip
LAST = {"kl": 0.25, "kl_first": 0.05, "kl_middle": 0.2, "kl_last": 1.6, "drift": 0.0456, "end": math.log(0.81)}
RESUMED = REWARDED | {"seconds": SECONDS | {"train": 9.0}}
"""Killed once: the last attempt had a few seconds, all steps and answers more."""


def report_of(folder: Path, *details: dict[str, Any]) -> Report:
    """A report in which the first cells have these details beside their own."""
    recipe = make_recipe()
    run_dir = make_run(folder, recipe)
    manifest = run_dir.read_manifest("train")
    assert manifest is not None
    names = list(manifest.details["cells"])
    cells = manifest.details["cells"] | {
        name: manifest.details["cells"][name] | found for name, found in zip(names, details, strict=False)
    }
    run_dir.write_manifest(dataclasses.replace(manifest, details=manifest.details | {"cells": cells}), "train")
    return build_report(recipe, run_dir)


def test_writing_and_scoring_are_told_apart_from_the_steps(tmp_path: Path) -> None:
    found = report_of(tmp_path, IMITATED, MATCHED, REWARDED)
    imitated, matched, rewarded = (cell.cost for cell in found.cells[:3])
    assert imitated == CellCost("imitate", 41_200, 0, 0, 50.0, 0.0, 0.0, 20.0, 140.0)
    assert matched == CellCost("match", 41_200, 900, 900, 50.0, 20.0, 10.0, 25.0, 210.0)
    assert rewarded == CellCost("reinforce", 41_200, 2000, 0, 15.0, 35.0, 0.0, 20.0, 140.0)
    page = render_page(found)
    assert "What the objectives cost" in page
    assert "tokens written by itself" in page


def test_a_cell_that_was_resumed_costs_all_of_its_steps_and_answers(tmp_path: Path) -> None:
    (cost,) = (cell.cost for cell in report_of(tmp_path, RESUMED).cells[:1])
    assert cost == CellCost("reinforce", 41_200, 2000, 0, 15.0, 35.0, 0.0, 14.0, 128.0)


@pytest.mark.parametrize("details", [(), (IMITATED, IMITATED)])
def test_arms_of_one_objective_that_write_nothing_have_no_such_table(
    tmp_path: Path, details: tuple[dict[str, Any], ...]
) -> None:
    assert "What the objectives cost" not in render_page(report_of(tmp_path, *details))


def test_the_divergence_from_the_teacher_is_told_before_and_after_by_thirds(tmp_path: Path) -> None:
    rollouts = {**MATCHED["rollouts"], **LEARNT}
    found = report_of(tmp_path, IMITATED, MATCHED | {"rollouts": rollouts, "match": LAST})
    imitated, matched = (cell.match for cell in found.cells[:2])
    assert imitated is None and matched is not None
    assert (matched.start["last"], matched.last["last"]) == (1.1, 1.6), "an answer's end may go wrong alone"
    assert matched.end_after == pytest.approx(0.81)
    table = render_page(found).partition("Matching the teacher")[2]
    assert found.cells[1].cell in table and found.cells[0].cell not in table.partition("</table>")[0]
    for words in ("0.500 → 0.250", "0.100 → 0.050", "1.100 → 1.600", "96 % → 81 %", "72 %", "25 %", "0.046", "0.012"):
        assert words in table.partition("</table>")[0], words


def test_a_run_that_matches_no_teacher_has_no_such_table(tmp_path: Path) -> None:
    assert "Matching the teacher" not in render_page(report_of(tmp_path, IMITATED, REWARDED))
