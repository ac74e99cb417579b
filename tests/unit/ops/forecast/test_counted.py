"""A run's counts are those of another plan only where it read its prompts in the same way."""

from pathlib import Path

from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, StageName
from distill.ops.forecast.cell_plan import expected_data
from distill.ops.forecast.inputs import num_problems, num_prompts
from distill.run.stage_keys import stage_configs
from tests.fixtures.forecast_run import recipe


def read_run(folder: Path) -> RunDir:
    """A run of the quickstart that has read 100 prompts and 140 problems."""
    run_dir = RunDir(str(folder))
    config = stage_configs(recipe(name="quickstart"), None)[StageName.PROMPTS]
    details = {"config": config, "benchmarks": {"small-sums": 140}}
    run_dir.write_manifest(Manifest(StageName.PROMPTS, "key", 100, 100, details=details), StageName.PROMPTS)
    return run_dir


def test_what_a_run_has_read_is_counted(tmp_path: Path) -> None:
    run_dir, same = read_run(tmp_path), recipe("train.num_epochs=3", name="quickstart")
    assert (num_prompts(same, run_dir), num_problems(same, run_dir)) == (100.0, {"small-sums": 140.0})
    assert {one.rows for one in expected_data(same, run_dir).values()} == {100}


def test_a_plan_with_other_prompts_than_its_run_directory_has_those_of_the_recipe(tmp_path: Path) -> None:
    run_dir, fewer = read_run(tmp_path), recipe("prompts.num_prompts=60", name="quickstart")
    assert (num_prompts(fewer, run_dir), num_problems(fewer, run_dir)) == (60.0, {"small-sums": 140.0})
    assert {one.rows for one in expected_data(fewer, run_dir).values()} == {60}
    other = recipe("benchmarks.small-sums.num_prompts=30", name="quickstart")
    assert (num_prompts(other, run_dir), num_problems(other, run_dir)) == (100.0, {"small-sums": 30.0})
