"""The forecast of `distill plan`: what it promises whatever the numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.gpus import GPU_KINDS, gpu_kind
from cluster.placement import Resources
from distill.config.load import find_recipe, load_recipe
from distill.config.recipe import Recipe
from distill.core.errors import ConfigError, InputError
from distill.core.run_dir import Manifest, RunDir
from distill.generate.pools import group_by_engine
from distill.ops.forecast import inputs as gather
from distill.ops.forecast.calibration import calibrate, is_same_kind, measured_nodes
from distill.ops.forecast.expected_samples import asking
from distill.ops.forecast.inputs import build_inputs, forecast_recipe
from distill.ops.forecast.roofline import EngineSize, engine_rate
from distill.ops.forecast.scaling_limits import limits
from distill.ops.forecast.stage_times import Forecast, forecast
from distill.ops.forecast.tables import by_kind, near, notes
from distill.ops.forecast.workload import Facts, asked_order
from distill.run.pools import Pool
from distill.train.machines import Machines, described_machines
from tests.unit.test_shipped_recipes import shape

NAME = "one-gpu-0.5b"
WIDE = ("teachers.long.replicas=[1,1000]", "teachers.short.replicas=[1,1000]", "serve.max_engines=100")


@pytest.fixture(autouse=True)
def _public_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "planned_shape", shape)


def recipe(*overrides: str, name: str = NAME) -> Recipe:
    return load_recipe(find_recipe(name), overrides)


def forecast_on(machines: str, *overrides: str, folder: Path = Path("/nowhere"), name: str = NAME) -> Forecast:
    found = forecast_recipe(recipe(*overrides, name=name), RunDir(str(folder)), described_machines(machines))
    assert found is not None
    return found


def seconds(found: Forecast) -> float:
    assert found.seconds is not None
    return found.seconds


def test_every_stage_has_hours_on_a_named_kind_of_gpu() -> None:
    found = forecast_on("1x1xh100")
    assert [stage.stage for stage in found.stages if stage.seconds is None] == []
    assert found.usd(3600.0) == GPU_KINDS["h100"].usd_per_hour
    assert "evaluate" in found.bottleneck or "generate" in found.bottleneck


def test_hours_are_not_invented_for_gpus_of_no_named_kind_or_an_unmeasured_cpu() -> None:
    assert forecast_on("1x1x80").seconds is None
    assert any("name the kind" in line for line in notes(forecast_on("1x1x80")))
    cpu = forecast_on("1x2cpu", name="quickstart")
    assert {stage.stage for stage in cpu.stages if stage.seconds is None} == {"generate", "train", "evaluate"}
    assert any("--measured" in line for line in notes(cpu))


@settings(max_examples=40, deadline=None)
@given(
    gpus=st.integers(1, 64),
    more=st.integers(1, 64),
    prompts=st.integers(100, 100_000),
    parallel=st.sampled_from([(1, 1), (2, 1), (1, 4), (4, 2)]),
    long_rate=st.floats(0.1, 1.0),
)
def test_more_gpus_are_never_slower(
    gpus: int, more: int, prompts: int, parallel: tuple[int, int], long_rate: float
) -> None:
    told = [
        f"prompts.num_prompts={prompts}",
        "forecast.num_prompts=1000000",
        f"teachers.long.engine.tensor_parallel={parallel[0]}",
        f"teachers.short.engine.tensor_parallel={parallel[1]}",
        f"forecast.solve_rate.long={long_rate}",
        *WIDE,
    ]
    node = max(parallel)
    fewer = forecast_on(f"{gpus}x{node}xh100", *told)
    wider = forecast_on(f"{gpus + more}x{node}xh100", *told)
    assert seconds(wider) <= seconds(fewer) * (1 + 1e-9)


def test_more_prompts_take_longer_and_cost_more() -> None:
    small, large = (
        forecast_on("4x8xh100", f"prompts.num_prompts={n}", "forecast.num_prompts=1000000", *WIDE)
        for n in (1000, 100_000)
    )
    assert seconds(large) > seconds(small)
    assert (large.usd(large.seconds) or 0) > (small.usd(small.seconds) or 0)


def test_cost_is_the_price_of_all_gpus_for_all_hours() -> None:
    found = forecast_on("2x8xh100")
    dearer = forecast_on("2x8xh100", "forecast.usd_per_gpu_hour.h100=7.98")
    assert found.usd(found.seconds) == pytest.approx(seconds(found) / 3600 * 16 * 3.99)
    assert dearer.usd(dearer.seconds) == pytest.approx(2 * (found.usd(found.seconds) or 0))
    assert forecast_on("1x1xl4").usd(3600.0) is None, "no price that can be cited"


def test_what_is_told_counts_before_what_is_assumed() -> None:
    guessed, told = forecast_on("1x1xh100"), forecast_on("1x1xh100", "forecast.mean_tokens.long=7000")
    assert seconds(told) > seconds(guessed)
    sources = {one.name: one.source for one in told.known}
    assert (sources["mean_tokens.long"], sources["mean_tokens.short"]) == ("told", "assumed")


def test_a_teacher_that_no_node_holds_is_refused_with_the_missing_resource() -> None:
    with pytest.raises(ConfigError, match=r"teachers\[long\].*8 GPUs on one node; the largest node has 4"):
        forecast_on("4x4xh100", "teachers.long.engine.tensor_parallel=8")


def test_weights_that_do_not_fit_are_refused_with_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"teachers\[long\]: 61.0 GiB of weights .* GiB are missing") as caught:
        forecast_on("1x2xa100-40", 'models.qwen2-5-32b.sources=["x"]', "teachers.long.model=qwen2-5-32b")
    assert "tensor_parallel = 2" in str(caught.value) or "more memory" in str(caught.value)


def test_more_replicas_at_least_than_the_cluster_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs 3 engines of 1 GPUs; the cluster holds 2"):
        forecast_on("1x2xh100", "teachers.long.replicas=[3,3]")


def test_an_evaluation_engine_that_nothing_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"serve.engine: an engine needs 8 GPUs; the cluster has 4"):
        forecast_on("1x4xh100", "serve.engine.tensor_parallel=8")
    with pytest.raises(ConfigError, match=r"serve\.cpus_per_engine"):
        forecast_on("1x2cpu", "serve.cpus_per_engine=4", name="quickstart")


def test_kinds_on_which_a_recipe_does_not_fit_say_why_and_the_others_have_hours() -> None:
    told = recipe("serve.engine.max_model_len=20000", "teachers.long.engine.max_model_len=180000")
    rows = by_kind(told, RunDir("/nowhere"), described_machines("1x1xh100"))
    assert isinstance(rows["l4"], str) and "missing" in rows["l4"]
    assert isinstance(rows["h200"], Forecast)


def test_kinds_are_known_by_the_names_that_cuda_and_ray_give_them() -> None:
    names = {"NVIDIA H100 80GB HBM3": "h100", "H100": "h100", "NVIDIA A100-SXM4-40GB": "a100-40", "A100-80G": "a100"}
    assert {name: (kind := gpu_kind(name)) and kind.name for name in names} == names
    assert gpu_kind("NVIDIA GeForce RTX 4090") is None
    with pytest.raises(InputError, match="no kind of GPU that is known"):
        described_machines("1x1xh900")


@given(rate=st.floats(0.01, 0.99), num_samples=st.integers(1, 16), num_correct=st.integers(1, 4))
def test_asking_early_costs_no_more_and_solves_as_much(rate: float, num_samples: int, num_correct: int) -> None:
    early = asking(rate, num_samples, num_correct, stop_early=True)
    full = asking(rate, num_samples, num_correct, stop_early=False)
    assert 1.0 <= early.traces <= full.traces + 1e-9
    assert early.solved == full.solved


def test_teachers_are_forecast_in_the_order_in_which_they_are_asked() -> None:
    told = recipe(name="quickstart")
    short, long = told.teachers
    other = short.model_copy(update={"name": "other", "model": "smollm2-26-layers"})
    three = told.model_copy(update={"teachers": (short, other, long)})
    pools = [Pool(one, getattr(one, "model", ""), "f") for one in three.teachers]
    assert asked_order(three) == [pool.name for group in group_by_engine(pools) for pool in group]
    assert asked_order(three) == ["short", "long", "other"]


def test_assumptions_about_teachers_and_gpus_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is no teacher 'lang'") as caught:
        recipe("forecast.solve_rate.lang=0.5", "forecast.usd_per_gpu_hour.h10=3.0")
    assert "did you mean 'long'?" in str(caught.value)
    assert "there is no kind of GPU 'h10'" in str(caught.value)


def test_asking_matches_a_simulation() -> None:
    import random

    chance, traces, solved = random.Random(0), 0, 0
    for _ in range(20_000):
        done = right = 0
        while done < 4 and right < 2:
            done, right = done + 1, right + (chance.random() < 0.4)
        traces, solved = traces + done, solved + (right > 0)
    expected = asking(0.4, 4, 2, stop_early=True)
    assert expected.traces == pytest.approx(traces / 20_000, rel=0.01)
    assert expected.solved == pytest.approx(solved / 20_000, rel=0.01)


def test_a_batch_is_bounded_by_memory_and_a_larger_one_writes_faster() -> None:
    size, assumed = EngineSize(shape(recipe(), "qwen2-5-7b"), 1, 4096), recipe().forecast
    rates = [
        engine_rate(size, GPU_KINDS["h100"], assumed, context_tokens=4000, requests=requests)
        for requests in (1, 16, 128, 4096)
    ]
    assert [rate.tokens_per_s for rate in rates] == sorted(rate.tokens_per_s for rate in rates)
    assert rates[-1].limit == "memory for keys and values"
    assert rates[-1].batch < 400


# Calibration

MACHINE = {"device": "cpu", "cpus": 2.0, "gpus": 0.0, "gpu": ""}


def finished_run(folder: Path, *, slower: float = 1.0) -> RunDir:
    """A run directory whose manifests tell of a run."""
    run_dir, told = RunDir(str(folder)), recipe(name="quickstart")
    run_dir.write_bytes(told.model_dump_json().encode(), "recipe.json")
    short = {"traces": 211, "correct": 54, "prompts_solved": 54, "mean_tokens": 20.0, "completion_tokens": 4444}
    long = {"traces": 85, "correct": 45, "prompts_solved": 45, "mean_tokens": 43.1, "completion_tokens": 3806}
    pools = {"short": short | {"prompts": 128}, "long": long | {"prompts": 128}}
    session = {"traces": 296, "tokens": 8250, "prompt_tokens": 78_410}
    generated = {"this_session": session, "busy_s": 86.0 * slower, "complete_prompts": 45, "prefix_cache_hits": 0.617}
    cells = {
        f"{student}@{mix}": {
            "steps": 24, "tokens": tokens + 3104, "supervised_tokens": tokens,
            "seconds": {"train": train * slower, "load": 7.0, "engine": 1.0, "finish": 4.0, "start_up": 15.0},
        }
        for student, train in (("smol-135m", 40.0), ("smol-26-layers", 50.0))
        for mix, tokens in (("short", 1768), ("long", 3880), ("mix-long", 2172))
    }  # fmt: skip
    asked = {"waves": 1, "engines": 5, "answers": 1200, "start_s": 130.0, "ask_s": 180.0 * slower, "stop_s": 5.0}
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


HERE = Machines((Resources(cpus=2, memory_gb=24.0),), "cpu")


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
    told = recipe(name="quickstart")
    quick, slow = (
        forecast_recipe(told, finished_run(tmp_path / name, slower=factor), HERE)
        for name, factor in (("a", 1.0), ("b", 2.0))
    )
    assert quick is not None and slow is not None
    work = [sum(stage.device_s for stage in found.stages) for found in (quick, slow)]
    assert work[1] == pytest.approx(2 * work[0])


def test_another_recipe_takes_the_rates_of_a_measured_run(tmp_path: Path) -> None:
    told = recipe("prompts.num_prompts=64", "benchmarks.small-sums.num_prompts=75", name="quickstart")
    found = forecast_recipe(told, RunDir(str(tmp_path / "new")), HERE, measured=finished_run(tmp_path / "old"))
    assert found is not None
    seconds = of_stage(found)
    assert seconds["evaluate"] == pytest.approx(320.0 - 90.0, rel=0.02), "half of the answers, all of the starts"
    assert [one.name for one in found.known if one.source != "measured"] == ["answer_tokens"], "no score says it"
    assert found.calibration.source.endswith("old")


def test_rates_of_another_kind_of_machine_are_not_taken() -> None:
    assert is_same_kind(MACHINE, HERE)
    assert not is_same_kind(MACHINE, described_machines("1x1xh100"))
    gpu = {"device": "gpu", "cpus": 8.0, "gpus": 1.0, "gpu": "H100"}
    assert is_same_kind(gpu, described_machines("4x8xh100"))
    assert not is_same_kind(gpu, described_machines("4x8xa100"))


def test_an_evaluation_that_continued_another_calibrates_nothing(tmp_path: Path) -> None:
    run_dir, told = finished_run(tmp_path), recipe(name="quickstart")
    manifest = run_dir.read_manifest("evaluate")
    assert manifest is not None
    session = {**manifest.details["this_session"], "answers": 300}
    run_dir.write_manifest(replace(manifest, details={**manifest.details, "this_session": session}), "evaluate")
    inputs = build_inputs(told, measured_nodes(MACHINE, HERE), Facts(), run_dir)
    assert inputs is not None
    found = calibrate(run_dir, inputs, "x")
    assert (found.evaluate, found.generate is None) == (None, False)
    assert forecast(replace(inputs, calibration=found)).seconds is None


# Limits


def test_limits_are_told_as_they_come_near() -> None:
    sizes: dict[str, Any] = {"engines": 8, "write_s": 1e6, "driver_gib": 32.0}
    small, large = (limits(prompts=n, traces=2 * n, **sizes) for n in (1e4, 1e8))
    assert all(limit.share < 0.1 for limit in small)
    assert large[0].share > 1.0
    assert near(forecast_on("1x8xh100"), driver_gib=32.0) == []


def test_a_kind_of_gpu_that_no_node_has_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r'teachers\[long\]: gpu = "L4": no node has one; the cluster has H100'):
        forecast_on("2x8xh100", "teachers.long.gpu=L4")
    with pytest.raises(ConfigError, match=r'serve: gpu = "L4"'):
        forecast_on("2x8xh100", "serve.gpu=L4")
    with pytest.raises(ConfigError, match=r"1 GPU L4 at once; the cluster .* holds 0"):
        forecast_on("2x8xh100", "students.qwen2-5-0-5b.gpu=L4")
    assert seconds(forecast_on("2x8xh100", "teachers.long.gpu=H100", "serve.gpu=H100", "teachers.short.gpu=H100")) > 0
