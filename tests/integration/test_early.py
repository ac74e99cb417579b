"""Training that begins while the teachers still write: the same students as training that begins afterwards."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from distill.config.load import parse_recipe
from distill.core.run_dir import RunDir
from distill.core.schema import Example
from distill.prompts.stage import prompts_stage
from distill.run.context import Run
from distill.stages import STEPS
from distill.train.attempts import read_attempts
from distill.train.worker.metrics import read_metrics
from tests.chat_server import Reply, chat_server, completion
from tests.integration.endpoint_run import endpoint_run
from tests.integration.tiny_models import make_tiny_model

pytestmark = pytest.mark.integration

NUM_PROMPTS, NUM_EARLY, BATCH, NUM_STEPS = 24, 12, 4, 9
ANSWERS = {"short": "It is 1. \\boxed{1}", "long": "Let us see, step by step, what is left: it is 1. \\boxed{1}"}
CELL = "tiny@mix"


def recipe_of(folder: Path, url: str) -> dict[str, Any]:
    return {
        **endpoint_run(folder / "tiny", url, ANSWERS),
        "name": "early",
        "mixes": [
            {"name": "long", "policy": "single", "pool": "long"},
            {"name": "mix", "weights": {"long": 0.4, "short": 0.6}, "assign": "threshold"},
        ],
        "students": [{"name": "tiny", "model": "tiny", "tune": {"kind": "full", "learning_rate": 3e-3}}],
        "train": {
            "budget": "steps",
            "num_steps": NUM_STEPS,
            "batch_size": BATCH,
            "max_length": 256,
            "early_prompts": NUM_EARLY,
        },
        "evaluate": {"benchmarks": ["held-out"]},
        "benchmarks": {"held-out": {"source": {"kind": "file", "path": "held_out.jsonl"}}},
    }


class Done(NamedTuple):
    """A run up to its trained students."""

    run_dir: RunDir
    trained_beside: bool
    """Whether the cells had taken their first steps before the teachers were done."""


def run(folder: Path, name: str, *, is_held: bool) -> Done:
    """`is_held`: the teachers answer for later prompts only once both cells have taken their first steps."""
    run_dir = RunDir(str(folder / name))
    later: list[str] = []

    def answer(number: int, body: dict[str, Any]) -> Reply:
        problem = body["messages"][-1]["content"]
        if is_held and body["model"] == "long" and any(text in problem for text in later):
            wait_for(lambda: has_begun(run_dir))
        return 200, completion(ANSWERS[body["model"]])

    with chat_server(answer) as server, ExitStack() as resources:
        current = Run(parse_recipe(recipe_of(folder, server.url)), folder, run_dir, Console(quiet=True), resources)
        run_dir.write_manifest(prompts_stage(current), "prompts")
        later += [prompt.problem for prompt in current.prompts()[NUM_EARLY:]]
        run_dir.write_manifest(STEPS["generate"](current), "generate")
        trained_beside = has_begun(run_dir)
        for stage in ("verify", "mix", "train"):
            run_dir.write_manifest(STEPS[stage](current), stage)
    return Done(run_dir, trained_beside)


def has_begun(run_dir: RunDir) -> bool:
    folders = [run_dir.local_path("train", f"tiny@{mix}") for mix in ("long", "mix")]
    return all(list(folder.glob("checkpoints/*/complete.json")) for folder in folders)


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.5)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Done]:
    folder = tmp_path_factory.mktemp("early")
    make_tiny_model(folder / "tiny")
    problems = [{"problem": f"What is {n} - {n - 1}?", "answer": "1"} for n in range(10, 10 + NUM_PROMPTS)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, problems)))
    (folder / "held_out.jsonl").write_text(json.dumps({"problem": "What is 90 - 89?", "answer": "1"}))
    return [run(folder, "beside", is_held=True), run(folder, "after", is_held=False)]


def test_cells_take_their_first_steps_before_the_teachers_are_done(both: Sequence[Done]) -> None:
    beside, after = both
    assert beside.trained_beside and not after.trained_beside
    assert [(one.outcome, one.first_step) for one in read_attempts(beside.run_dir, CELL)] == [
        ("early", 0),
        ("done", NUM_EARLY // BATCH),
    ]
    assert [(one.outcome, one.first_step) for one in read_attempts(after.run_dir, CELL)] == [("done", 0)]


def test_when_a_cell_begins_changes_no_student(both: Sequence[Done]) -> None:
    losses = [[line.loss for line in read_metrics(done.run_dir, CELL)] for done in both]
    assert len(losses[0]) == NUM_STEPS and losses[0] == pytest.approx(losses[1], rel=1e-3)
    models = [load_file(done.run_dir.local_path("train", CELL, "model", "model.safetensors")) for done in both]
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor.float(), models[1][name].float(), rtol=1e-2, atol=1e-3)


def test_the_first_prompts_keep_their_rows_when_the_others_come(both: Sequence[Done]) -> None:
    for done in both:
        first, whole = rows(done.run_dir, "early"), rows(done.run_dir, "mix")
        assert len(first) == NUM_EARLY and len(whole) == NUM_PROMPTS
        assert first.items() <= whole.items()


def rows(run_dir: RunDir, stage: str) -> dict[str, str]:
    table = run_dir.read_table(stage, "mix.parquet", row_type=Example)
    return dict(zip(table.column("prompt_id").to_pylist(), table.column("trace_id").to_pylist(), strict=True))
