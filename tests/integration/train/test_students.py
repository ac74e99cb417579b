"""Rejection sampling from a trained student, for real: a pass that trains it, then one in which it writes and is taught
its own right traces."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from distill.config.load import parse_recipe
from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, StageName, Training, finished_pass
from distill.core.schema import Example, Trace
from distill.pipeline import run
from distill.run.stage_keys import stage_states
from tests.fixtures.tiny_models import make_tiny_model

ONES = [f"What is {n} - {n - 1}?" for n in range(10, 34)]
TAUGHT = "So it is \\boxed{1}."


class Passes(NamedTuple):
    """A run whose last stage so far is `train`."""

    recipe: Recipe
    base: Path
    run_dir: RunDir

    def again(self) -> bool:
        """Whether the same command had anything to do."""
        states = stage_states(self.recipe, self.base, self.run_dir)
        console = Console(quiet=True)
        return run(self.recipe, self.base, self.run_dir, states, console, until=StageName.TRAIN)

    def written(self, cell: str) -> int:
        """When a cell was finished, ns."""
        return self.run_dir.local_path(*Training(cell).folder, "manifest.json").stat().st_mtime_ns

    def traces(self) -> list[dict[str, Any]]:
        """What the student wrote."""
        (folder,) = self.run_dir.local_path("generate").glob("own-*")
        return self.run_dir.read_table("generate", folder.name, row_type=Trace).to_pylist()


def recipe_of(folder: Path) -> dict[str, Any]:
    source = {"kind": "file", "answer_kind": "number"}
    return {
        "name": "passes",
        "device": "cpu",
        "models": {"tiny": {"sources": [str(folder / "tiny")]}},
        "prompts": {
            "sources": [{**source, "path": "prompts.jsonl"}],
            "near_duplicates": 0,
            "decontaminate_ngram": 0,
        },
        "teachers": [
            {
                "name": "own",
                "model": "s@sft",
                "style": "short",
                "num_samples": 2,
                "sampling": {"temperature": 0.7, "max_tokens": 40},
                "engine": {"max_model_len": 256, "kv_cache_gib": 0.1},
            },
            {
                "kind": "dataset",
                "name": "given",
                "style": "short",
                "source": {"kind": "file", "path": "traces.jsonl"},
            },
        ],
        "generate": {"stop_early": False},
        "mixes": [
            {"name": "again", "policy": "single", "pool": "own", "after": "sft"},
            {"name": "sft", "policy": "single", "pool": "given"},
        ],
        "students": [{"name": "s", "model": "tiny", "tune": {"kind": "full", "learning_rate": 3e-3}}],
        "train": {"max_length": 128, "batch_size": 8, "budget": "steps", "num_steps": 60},
        "benchmarks": {"held-out": {"source": {**source, "path": str(folder / "held_out.jsonl")}}},
        "evaluate": {"benchmarks": ["held-out"], "sampling": {"temperature": 0.0, "max_tokens": 40}},
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Passes:
    folder = tmp_path_factory.mktemp("passes")
    make_tiny_model(folder / "tiny")
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"problem": one, "answer": "1"}) for one in ONES))
    (folder / "traces.jsonl").write_text("\n".join(json.dumps({"problem": one, "completion": TAUGHT}) for one in ONES))
    (folder / "held_out.jsonl").write_text(json.dumps({"problem": "What is 90 - 89?", "answer": "1"}))
    made = Passes(parse_recipe(recipe_of(folder)), folder, RunDir(str(folder / "run")))
    assert made.again()
    return made


def test_the_student_writes_what_it_was_taught_and_learns_its_right_traces(done: Passes) -> None:
    traces = done.traces()
    assert len(traces) == 2 * len(ONES) and TAUGHT in {trace["completion"] for trace in traces}
    right = {trace["prompt_id"] for trace in traces if trace["verdict"] == "CORRECT"}
    rows = done.run_dir.read_table("mix", "again.parquet", row_type=Example).to_pylist()
    assert {row["prompt_id"] for row in rows} <= right and len(rows) == len({row["prompt_id"] for row in rows}) > 0
    taught = {row["messages"][-1]["content"] for row in rows}
    assert taught <= {trace["completion"] for trace in traces if trace["verdict"] == "CORRECT"}
    manifest = done.run_dir.read_manifest(*Training("s@again").folder)
    assert manifest is not None and manifest.details["after"] == ["s@sft"]


def test_its_pool_is_known_by_the_key_of_the_student_that_wrote(done: Passes) -> None:
    first = done.run_dir.read_manifest(*finished_pass(1))
    student = done.run_dir.read_manifest(*Training("s@sft").folder)
    assert first is not None and student is not None and first.details["cells"] == {"s@sft": student.key}
    verify = done.run_dir.read_manifest("verify")
    assert verify is not None and set(verify.details["pools"]) == {"given", "own"}


def test_run_again_after_a_kill_in_the_second_pass_nothing_is_written_or_trained_twice(done: Passes) -> None:
    assert not done.again()
    before, student = {trace["trace_id"] for trace in done.traces()}, done.written("s@sft")
    for stage in ("verify", "mix", "train"):
        done.run_dir.remove(stage, "manifest.json")
    done.run_dir.remove(*Training("s@again").folder)
    assert done.again()
    assert {trace["trace_id"] for trace in done.traces()} == before and done.written("s@sft") == student
    assert done.run_dir.read_manifest(*Training("s@again").folder) is not None
