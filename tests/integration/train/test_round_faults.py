"""Processes that write and score own answers are killed: nobody waits for them without end, and others begin anew."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError

from cluster.placement import Resources
from distill.core.errors import StageError
from distill.core.run_dir import RunDir, arm_examples
from distill.models.resolve import load_tokenizer
from distill.train.rollouts import round_writer
from distill.train.rollouts.prepare import _in_task
from distill.train.rollouts.round_writer import Question, start_writer
from distill.train.rollouts.rounds_plan import rounds_plan
from distill.train.rollouts.write import read_examples, student_prompt
from tests.fixtures.killed_run import TARGETS, only_child
from tests.fixtures.tiny_models import make_tiny_adapter
from tests.integration.train.test_reinforce import recipe_of, write_arm


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_writer_ends_with_its_engines_own_process(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU: on a CPU the engine is usually in the process of the writer.
    monkeypatch.setattr(round_writer, "single_worker_env", lambda *_: {})
    run_dir, recipe = RunDir(str(tmp_path / "run")), recipe_of(model)
    write_arm(run_dir)
    plan = rounds_plan("rl", recipe.mixes[0].objective, recipe)
    assert plan is not None
    writer = start_writer(run_dir.address, plan, model=str(model), rank=4, device="cpu", threads=1, seed=0)
    ray.get(writer.is_up.remote(), timeout=300)
    core = only_child(TARGETS["engine"])
    core.suspend()  # so that it dies before it has answered
    tokenizer, rows = load_tokenizer(str(model)), read_examples(run_dir, run_dir.path(*arm_examples("rl")))
    asked = [
        Question(row["trace_id"], row["trace_id"], row["prompt_id"], student_prompt(tokenizer, row), False, 40, seed)
        for seed, row in enumerate(rows)
    ]
    answers = writer.write.remote(0, str(make_tiny_adapter(tmp_path / "adapter", model)), asked)
    time.sleep(2.0)
    core.kill()
    with pytest.raises(RayActorError):
        ray.get(answers, timeout=60)


def test_a_task_whose_worker_is_killed_is_begun_again_and_a_few_times_only(tmp_path: Path) -> None:
    def killed(asked: tuple[str, int]) -> int:
        """Dies so many times, then says how often it was begun."""
        begun = Path(asked[0])
        begun.write_text(f"{begun.read_text() if begun.exists() else ''}x")
        if len(begun.read_text()) <= asked[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(begun.read_text())

    once, always = str(tmp_path / "once"), str(tmp_path / "always")
    assert _in_task(Resources(cpus=1), "s@refine", "scoring by long", killed, (once, 1), {}) == 2
    with pytest.raises(StageError, match="s@refine: scoring by long failed: "):
        _in_task(Resources(cpus=1), "s@refine", "scoring by long", killed, (always, 99), {})
    assert len(Path(always).read_text()) == 3
