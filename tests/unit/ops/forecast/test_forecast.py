"""The forecast of `distill plan`: what it promises whatever the numbers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.gpus import GPU_KINDS, gpu_kind
from distill.config.load import find_recipe, load_recipe
from distill.core.errors import ConfigError, InputError
from distill.core.run_dir import RunDir
from distill.generate.pools import group_by_engine
from distill.ops.forecast.expected_samples import expected_samples
from distill.ops.forecast.stage_times import Forecast
from distill.ops.forecast.tables import by_kind, notes
from distill.ops.forecast.train_eval_time import evaluation_waves, num_requests
from distill.ops.forecast.workload import teacher_order
from distill.run.pools import Pool
from distill.train.machines import described_machines
from tests.fixtures.forecast_run import forecast_on, recipe, seconds

WIDE = ("teachers.long.replicas=[1,1000]", "teachers.short.replicas=[1,1000]", "serve.max_engines=100")


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
    assert cpu.device_s is None, "a sum without them is no total"


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
    overrides = [
        f"prompts.num_prompts={prompts}",
        "forecast.num_prompts=1000000",
        f"teachers.long.engine.tensor_parallel={parallel[0]}",
        f"teachers.short.engine.tensor_parallel={parallel[1]}",
        f"forecast.solve_rate.long={long_rate}",
        *WIDE,
    ]
    node = max(parallel)
    fewer = forecast_on(f"{gpus}x{node}xh100", *overrides)
    wider = forecast_on(f"{gpus + more}x{node}xh100", *overrides)
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


def test_the_recipes_assumptions_count_before_the_defaults() -> None:
    guessed, with_setting = forecast_on("1x1xh100"), forecast_on("1x1xh100", "forecast.mean_tokens.long=7000")
    assert seconds(with_setting) > seconds(guessed)
    sources = {one.name: one.source for one in with_setting.assumptions}
    assert (sources["mean_tokens.long"], sources["mean_tokens.short"]) == ("recipe", "assumed")


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
    base = recipe("serve.engine.max_model_len=20000", "teachers.long.engine.max_model_len=180000")
    rows = by_kind(base, RunDir("/nowhere"), described_machines("1x1xh100"))
    assert isinstance(rows["l4"], str) and "missing" in rows["l4"]
    assert isinstance(rows["h200"], Forecast)


def test_kinds_are_known_by_the_names_that_cuda_and_ray_give_them() -> None:
    names = {"NVIDIA H100 80GB HBM3": "h100", "H100": "h100", "NVIDIA A100-SXM4-40GB": "a100-40", "A100-80G": "a100"}
    assert {name: (kind := gpu_kind(name)) and kind.name for name in names} == names
    assert gpu_kind("NVIDIA GeForce RTX 4090") is None
    with pytest.raises(InputError, match="h900 is not a known kind of GPU"):
        described_machines("1x1xh900")


@given(rate=st.floats(0.01, 0.99), num_samples=st.integers(1, 16), num_correct=st.integers(1, 4))
def test_asking_early_costs_no_more_and_solves_as_much(rate: float, num_samples: int, num_correct: int) -> None:
    early = expected_samples(rate, num_samples, num_correct, stop_early=True)
    full = expected_samples(rate, num_samples, num_correct, stop_early=False)
    assert 1.0 <= early.traces <= full.traces + 1e-9
    assert early.solved == full.solved


def test_teachers_are_forecast_in_the_order_in_which_they_are_asked() -> None:
    base = recipe(name="quickstart")
    short, long = base.teachers
    other = short.model_copy(update={"name": "other", "model": "smollm2-26-layers"})
    three = base.model_copy(update={"teachers": (short, other, long)})
    pools = [Pool(one, getattr(one, "model", ""), "f") for one in three.teachers]
    assert teacher_order(three) == [pool.name for group in group_by_engine(pools) for pool in group]
    assert teacher_order(three) == ["short", "long", "other"]


def test_assumptions_about_teachers_and_gpus_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is no teacher 'lang'") as caught:
        recipe("forecast.solve_rate.lang=0.5", "forecast.usd_per_gpu_hour.h10=3.0")
    assert "did you mean 'long'?" in str(caught.value)
    assert "there is no kind of GPU 'h10'" in str(caught.value)


# Calibration


# Limits


def test_a_kind_of_gpu_that_no_node_has_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r'teachers\[long\]: gpu = "L4": no node has one; the cluster has H100'):
        forecast_on("2x8xh100", "teachers.long.gpu=L4")
    with pytest.raises(ConfigError, match=r'serve: gpu = "L4"'):
        forecast_on("2x8xh100", "serve.gpu=L4")
    with pytest.raises(ConfigError, match=r"1 GPU L4 at once; the cluster .* holds 0"):
        forecast_on("2x8xh100", "students.qwen2-5-0-5b.gpu=L4")
    assert seconds(forecast_on("2x8xh100", "teachers.long.gpu=H100", "serve.gpu=H100", "teachers.short.gpu=H100")) > 0


def test_a_verified_trace_is_priced_where_the_solve_rate_is_known() -> None:
    def line(*overrides: str) -> list[str]:
        return [line for line in notes(forecast_on("1x1xh100", *overrides)) if line.startswith("per verified trace")]

    known = ("forecast.solve_rate.long=0.25", "forecast.mean_tokens.long=1000")
    assert line(*known) == ["per verified trace: long 4,000 tokens"]
    priced = line(*known, "teachers.long.usd_per_million_tokens=2.0")
    assert priced == ["per verified trace: long 4,000 tokens, 0.008 USD"]
    assert line() == [], "an assumed rate is no price"


def test_smaller_arms_have_fewer_rows_and_take_less_training() -> None:
    mixes = [mix.name for mix in recipe().mixes]
    whole, small = forecast_on("1x1xh100"), forecast_on("1x1xh100", f"mixes.{mixes[0]}.num_prompts=50")
    assert small.work.mixes[mixes[0]].rows == 50 * whole.work.mixes[mixes[0]].rows / whole.work.common
    assert small.work.mixes[mixes[1]] == whole.work.mixes[mixes[1]]
    train = {
        name: stage.device_s
        for name, one in (("whole", whole), ("small", small))
        for stage in one.stages
        if stage.stage == "train"
    }
    assert train["small"] < train["whole"]


def test_evaluation_arms_are_requests_of_the_forecast_also_where_the_time_is_not_known() -> None:
    arms = 'evaluate.arms=[{of="smol-135m@short",budget=[8,16]},{of="smol-135m",think=false}]'
    plain, made = (evaluation_note(*overrides) for overrides in ((), (arms,)))
    per_model, seeds = 300, 3
    assert f"{(1 + 4 * seeds) * per_model:,} requests" in plain and "evaluation arms" not in plain
    asked = (2 * seeds + 1) * per_model
    assert f"{(1 + 4 * seeds) * per_model + asked:,} requests, {asked:,} of them of evaluation arms" in made


def test_an_answer_that_two_models_write_takes_both_engines_once_more_unless_they_run_together() -> None:
    arms = 'evaluate.arms=[{of="smol-26-layers@short",helper={model="smol-135m@long"}}]'
    plain, helped = (load_recipe(find_recipe("quickstart"), overrides) for overrides in ((), (arms,)))
    alone = evaluation_waves(plain, 1, "cpu")
    assert [[one.num_models for one in wave] for wave in alone] == [[4], [4]], "an adapter's engine, and one in turns"
    (adapters,), (pair,), (others,), both = evaluation_waves(helped, 1, "cpu")
    assert (adapters.num_models, pair.num_models, others.num_models) == (4, 1, 3)
    assert pair.names == {"smol-26-layers@short"}, "it does not take turns: it is needed beside the helper"
    assert [(one.names, one.num_models) for one in both] == [({"smol-135m@long"}, 1), ({"smol-26-layers@short"}, 0)]
    (together,) = evaluation_waves(helped, 3, "gpu")
    assert sum(one.num_models for one in together) == 4 + 4 + 1
    problems = {"small-sums": 10.0}
    assert num_requests(plain, problems) == (80, 0) and num_requests(helped, problems) == (90, 10)


def evaluation_note(*overrides: str) -> str:
    stages = forecast_on("1x2cpu", *overrides, name="small-evidence").stages
    return next(stage.note for stage in stages if stage.stage == "evaluate")
