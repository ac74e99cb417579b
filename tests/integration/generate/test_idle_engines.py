"""The tail of a generation: one prompt that takes long, on engines of which only one has work left."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import ray

from distill.generate import ask_job
from distill.generate.chunks import CHUNK_ROWS
from distill.generate.progress_actor import Snapshot
from distill.generate.stage import generate_stage
from tests.benchmarks.scale_rows import stub_engines, stub_run
from tests.fixtures.slow_engine import SLOW_S, SlowEngine

NUM_ENGINES, CPUS_PER_ENGINE = 2, 0.5
NUM_PROMPTS = 2 * CHUNK_ROWS


def test_an_idle_engine_is_released_while_another_still_generates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask_job, "ask_vllm", stub_engines(NUM_ENGINES, 1.0, SlowEngine))
    seen: list[tuple[float, float, Snapshot]] = []

    def record(run: str, values: Any) -> None:
        list(values)

    def describe(snapshot: Snapshot) -> str:
        taken = ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0.0)
        seen.append((time.monotonic(), taken, snapshot))
        return ""

    monkeypatch.setattr(ask_job, "publish", record)
    monkeypatch.setattr(ask_job, "describe", describe)
    with ExitStack() as resources:
        manifest = generate_stage(stub_run(tmp_path, NUM_PROMPTS, resources))
    assert manifest.rows_out == NUM_PROMPTS
    tail = [(at, taken) for at, taken, one in seen if (one.engines, one.busy_engines) == (NUM_ENGINES, 1)]
    given_back = [at for at, taken in tail if taken <= CPUS_PER_ENGINE]
    assert tail, "the tail was not seen"
    assert given_back and tail[-1][0] - given_back[0] > SLOW_S / 2, "the idle engine was kept to the end"
