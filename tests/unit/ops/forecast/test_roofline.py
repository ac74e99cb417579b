"""Tokens per second of an engine."""

from cluster.gpus import GPU_KINDS
from distill.ops.forecast.roofline import EngineSize, engine_rate
from tests.fixtures.forecast_run import recipe
from tests.fixtures.model_shapes import shape


def test_a_batch_is_bounded_by_memory_and_a_larger_one_writes_faster() -> None:
    size, assumed = EngineSize(shape(recipe(), "qwen2-5-7b"), 1, 4096), recipe().forecast
    rates = [
        engine_rate(size, GPU_KINDS["h100"], assumed, context_tokens=4000, requests=requests)
        for requests in (1, 16, 128, 4096)
    ]
    assert [rate.tokens_per_s for rate in rates] == sorted(rate.tokens_per_s for rate in rates)
    assert rates[-1].limit == "memory for keys and values"
    assert rates[-1].batch < 400
