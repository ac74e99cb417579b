"""A run as a job of a real Ray cluster: submitted, left, come back to, and finished."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distill.config.load import parse_recipe
from distill.core.run_dir import RunDir, StageName
from distill.ops.deploy import ray_job as submitting
from distill.ops.deploy.ray_job import stop, submit
from tests.fixtures.chat_server import Reply, chat_server, completion
from tests.fixtures.endpoint_run import submitted_recipe
from tests.fixtures.tiny_models import make_tiny_model


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import ray

    # On a cluster `python` is the image's; here it is this environment's.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    context = ray.init(num_cpus=2, include_dashboard=True, dashboard_port=0, log_to_driver=False)
    yield f"http://{context.dashboard_url}"
    ray.shutdown()


def test_a_run_is_submitted_detached_attached_and_finished(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_model(tmp_path / "tiny")
    run_dir = RunDir(str(tmp_path / "run"))

    def answer(number: int, body: dict[str, Any]) -> Reply:
        return 200, completion("It is 1. \\boxed{1}")

    with chat_server(answer) as server:
        recipe = parse_recipe(submitted_recipe(tmp_path, server.url))
        console = Console(record=True, width=200)

        async def leave(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(submitting, "_stream", leave)
            assert submit(recipe, run_dir.uri, address, console, wait=True) == 0
        assert submit(recipe, run_dir.uri, address, console, wait=True) == 0
        said = console.export_text()
        assert "submitted" in said and "continues" in said and "attached" in said and "8/8 report" in said
        assert all(run_dir.read_manifest(stage) for stage in StageName)
        assert stop(recipe, run_dir.uri, address, console) == 0
        assert "this run has no active job" in console.export_text()
