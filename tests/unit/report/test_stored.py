"""`distill report` shows the report that a finished run has stored, and builds it where something has changed since."""

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.run_dir import REPORT_JSON, RunDir, StageName
from distill.report import stored
from distill.report.data import Report
from distill.report.stored import stored_report
from distill.report.tables import print_report
from tests.fixtures.report_run import finish, make_recipe, make_run


@pytest.fixture
def recipe() -> Recipe:
    return make_recipe()


@pytest.fixture
def run_dir(recipe: Recipe, tmp_path: Path) -> RunDir:
    return make_run(tmp_path, recipe, num_prompts=40, num_scored=12)


def printed(report: Report) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_report(report, console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_a_stored_report_is_the_one_that_was_built(recipe: Recipe, run_dir: RunDir) -> None:
    built = finish(run_dir, recipe)
    found = stored_report(recipe, run_dir)
    assert found == built
    assert found is not None and printed(found) == printed(built)


def test_a_run_that_is_not_finished_has_none(recipe: Recipe, run_dir: RunDir) -> None:
    assert stored_report(recipe, run_dir) is None


def test_other_sources_or_libraries_build_it_again(
    recipe: Recipe, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(run_dir, recipe)
    monkeypatch.setattr(stored, "source_digest", lambda: "another")
    assert stored_report(recipe, run_dir) is None


def test_a_stage_that_was_done_again_since_builds_it_again(recipe: Recipe, run_dir: RunDir) -> None:
    finish(run_dir, recipe)
    manifest = run_dir.read_manifest(StageName.EVALUATE)
    assert manifest is not None
    run_dir.write_manifest(dataclasses.replace(manifest, finished_at="2999-01-01T00:00:00Z"), StageName.EVALUATE)
    assert stored_report(recipe, run_dir) is None


def test_a_recipe_that_has_changed_builds_it_again(recipe: Recipe, run_dir: RunDir) -> None:
    finish(run_dir, recipe)
    assert stored_report(recipe.model_copy(update={"description": "another"}), run_dir) is None


def test_a_loss_that_is_no_number_is_built_again(recipe: Recipe, run_dir: RunDir) -> None:
    finish(run_dir, recipe)
    text = (run_dir.read_bytes(*REPORT_JSON) or b"").decode()
    head, losses, rest = text.partition('"losses": [\n')
    run_dir.write_bytes(f"{head}{losses}null,{rest}".encode(), *REPORT_JSON)
    assert losses and stored_report(recipe, run_dir) is None
