"""A run as a job of a real Ray cluster: submitted, left, come back to, and finished."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distill.config.load import parse_recipe
from distill.core.run_dir import STAGES, RunDir
from distill.ops.deploy import ray_job as submitting
from distill.ops.deploy.ray_job import stop, submit
from tests.chat_server import Reply, chat_server, completion
from tests.integration.tiny_models import make_tiny_model

pytestmark = pytest.mark.integration


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import ray

    # On a cluster `python` is the image's; here it is this environment's.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    context = ray.init(num_cpus=2, include_dashboard=True, dashboard_port=0, log_to_driver=False)
    yield f"http://{context.dashboard_url}"
    ray.shutdown()


def recipe_of(folder: Path, url: str) -> dict[str, Any]:
    problems = [{"problem": f"What is {n} - {n - 1}?", "answer": "1"} for n in range(10, 18)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, problems)))
    (folder / "held_out.jsonl").write_text(json.dumps({"problem": "What is 90 - 89?", "answer": "1"}))
    source = {"kind": "file", "answer_kind": "number"}
    return {
        "name": "job",
        "device": "cpu",
        "models": {"tiny": {"sources": [str(folder / "tiny")]}},
        "prompts": {
            "sources": [{**source, "path": str(folder / "prompts.jsonl")}],
            "near_duplicates": 0,
            "decontaminate_ngram": 0,
        },
        "teachers": [{"kind": "endpoint", "name": "far", "style": "short", "base_url": url, "remote_model": "far"}],
        "mixes": [{"name": "short", "policy": "single", "pool": "far"}],
        "students": [{"name": "tiny", "model": "tiny", "tune": {"kind": "full", "learning_rate": 3e-3}}],
        "train": {"num_epochs": 1, "batch_size": 4, "max_length": 256},
        "benchmarks": {"held-out": {"source": {**source, "path": str(folder / "held_out.jsonl")}}},
        "evaluate": {"benchmarks": ["held-out"], "sampling": {"temperature": 0.0, "max_tokens": 8}},
        "serve": {"cpus_per_engine": 0.1, "engine": {"max_model_len": 256, "kv_cache_gb": 0.1}},
    }


def test_a_run_is_submitted_left_come_back_to_and_finished(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_model(tmp_path / "tiny")
    run_dir = RunDir(str(tmp_path / "run"))

    def answer(number: int, body: dict[str, Any]) -> Reply:
        return 200, completion("It is 1. \\boxed{1}")

    with chat_server(answer) as server:
        recipe = parse_recipe(recipe_of(tmp_path, server.url))
        console = Console(record=True, width=200)

        async def leave(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(submitting, "_stream", leave)
            assert submit(recipe, run_dir.uri, address, console, wait=True) == 0
        assert submit(recipe, run_dir.uri, address, console, wait=True) == 0
        said = console.export_text()
        assert "submitted" in said and "goes on" in said and "attached" in said and "7/7 report" in said
        assert all(run_dir.read_manifest(stage) for stage in STAGES)
        assert stop(recipe, run_dir.uri, address, console) == 0
        assert "no job of this run is under way" in console.export_text()
