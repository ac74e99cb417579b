"""Forecasts with the rates of a measured run."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.placement import Resources
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.ops.forecast.calibration import calibrate, is_same_kind, measured_nodes
from distill.ops.forecast.inputs import build_inputs, forecast_recipe
from distill.ops.forecast.stage_times import Forecast, forecast
from distill.ops.forecast.workload import MeasuredWork
from distill.train.machines import Machines, described_machines
from tests.fixtures.forecast_run import recipe

MACHINE = {"device": "cpu", "cpus": 2.0, "gpus": 0.0, "gpu": ""}


def finished_run(folder: Path, *, slower: float = 1.0) -> RunDir:
    """A run directory whose manifests describe a run."""
    run_dir, run_recipe = RunDir(str(folder)), recipe(name="quickstart")
    run_dir.write_bytes(run_recipe.model_dump_json().encode(), "recipe.json")
    short = {"traces": 211, "correct": 54, "prompts_solved": 54, "mean_tokens": 20.0, "completion_tokens": 4444}
    long = {"traces": 85, "correct": 45, "prompts_solved": 45, "mean_tokens": 43.1, "completion_tokens": 3806}
    pools = {"short": short | {"prompts": 128}, "long": long | {"prompts": 128}}
    session = {"traces": 296, "tokens": 8250, "prompt_tokens": 78_410}
    generated = {"this_session": session, "busy_s": 86.0 * slower, "complete_prompts": 45, "prefix_cache_hits": 0.617}
    cells = {
        f"{student}@{mix}": {
            "steps": 24, "tokens": tokens + 3104, "supervised_tokens": tokens,
            "steps_s": train * slower,
            "seconds": {"train": train * slower, "load": 7.0, "engine": 1.0, "finish": 4.0, "start_up": 15.0},
        }
        for student, train in (("smol-135m", 40.0), ("smol-26-layers", 50.0))
        for mix, tokens in (("short", 1768), ("long", 3880), ("mix-long", 2172))
    }  # fmt: skip
    asked = {"waves": 1, "engines": 2, "answers": 1200, "start_s": 130.0, "ask_s": 180.0 * slower, "stop_s": 5.0}
    training = {"cells": cells, "config": {"train": {"budget": "epochs", "num_epochs": 2}}}
    details = {
        "prompts": {"benchmarks": {"small-sums": 150}},
        "generate": generated,
        "verify": {"pools": pools},
        "mix": {},
        "train": training,
        "evaluate": {"this_session": asked},
    }
    rows = {"prompts": 128, "generate": 296, "verify": 99, "mix": 45, "train": 270, "evaluate": 1200}
    walls = {"prompts": 0.9, "generate": 44 + 86 * slower, "verify": 0.1, "mix": 0.4, "train": 300.0, "evaluate": 320.0}
    for stage, wall_s in walls.items():
        found = details[stage] | {"machine": MACHINE}
        run_dir.write_manifest(Manifest(stage, "", rows[stage], rows[stage], wall_s=wall_s, details=found), stage)
    return run_dir


HERE = Machines((Resources(cpus=2, memory_gib=24.0),), "cpu")


def of_stage(found: Forecast | None) -> dict[str, float | None]:
    assert found is not None
    return {stage.stage: stage.seconds for stage in found.stages}


def test_a_calibrated_forecast_gives_the_run_back_that_it_was_calibrated_on(tmp_path: Path) -> None:
    run_dir = finished_run(tmp_path)
    found = of_stage(forecast_recipe(recipe(name="quickstart"), run_dir, HERE))
    measured = {stage: manifest.wall_s for stage in found if (manifest := run_dir.read_manifest(stage))}
    for stage, wall_s in measured.items():
        assert found[stage] == pytest.approx(wall_s, rel=0.02, abs=0.1), stage


def test_a_run_on_a_machine_half_as_fast_is_forecast_to_work_twice_as_long(tmp_path: Path) -> None:
    run_recipe = recipe(name="quickstart")
    quick, slow = (
        forecast_recipe(run_recipe, finished_run(tmp_path / name, slower=factor), HERE)
        for name, factor in (("a", 1.0), ("b", 2.0))
    )
    assert quick is not None and slow is not None
    work = [sum(stage.device_s for stage in found.stages) for found in (quick, slow)]
    assert work[1] == pytest.approx(2 * work[0])


def test_another_recipe_takes_the_rates_of_a_measured_run(tmp_path: Path) -> None:
    run_recipe = recipe("prompts.num_prompts=64", "benchmarks.small-sums.num_prompts=75", name="quickstart")
    found = forecast_recipe(run_recipe, RunDir(str(tmp_path / "new")), HERE, measured=finished_run(tmp_path / "old"))
    assert found is not None
    seconds = of_stage(found)
    assert seconds["evaluate"] == pytest.approx(320.0 - 90.0, rel=0.02), "half of the answers, all of the starts"
    assert [one.name for one in found.assumptions if one.source != "measured"] == ["answer_tokens"], "no score says it"
    assert found.calibration.source.endswith("old")


def test_rates_of_another_kind_of_machine_are_not_taken() -> None:
    assert is_same_kind(MACHINE, HERE)
    assert not is_same_kind(MACHINE, described_machines("1x1xh100"))
    gpu = {"device": "gpu", "cpus": 8.0, "gpus": 1.0, "gpu": "H100"}
    assert is_same_kind(gpu, described_machines("4x8xh100"))
    assert not is_same_kind(gpu, described_machines("4x8xa100"))


def test_an_evaluation_that_continued_another_calibrates_nothing(tmp_path: Path) -> None:
    run_dir, run_recipe = finished_run(tmp_path), recipe(name="quickstart")
    manifest = run_dir.read_manifest("evaluate")
    assert manifest is not None
    session = {**manifest.details["this_session"], "answers": 300}
    run_dir.write_manifest(replace(manifest, details={**manifest.details, "this_session": session}), "evaluate")
    inputs = build_inputs(run_recipe, measured_nodes(MACHINE, HERE), MeasuredWork(), run_dir)
    assert inputs is not None
    found = calibrate(run_dir, inputs, "x")
    assert (found.evaluate, found.generate is None) == (None, False)
    assert forecast(replace(inputs, calibration=found)).seconds is None
