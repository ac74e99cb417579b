"""Rewards for own answers, for real: one engine writes all rounds with the newest adapter, the verifier grades, and the
right answers become likelier."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from distill.config.recipe import Recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, Training
from distill.core.schema import Example, Message, Prompt
from distill.train.attempts import read_attempts
from distill.train.rollouts.rewards import OwnAnswer
from distill.train.worker.checkpoint import MARKER
from distill.train.worker.metrics import read_metrics
from tests.fixtures.killed_run import only_child
from tests.fixtures.mix_run import prompt
from tests.fixtures.tiny_models import ANSWER, make_tiny_model, teach_answers
from tests.fixtures.train_run import run_train_stage

NUM_ROWS, STEPS, SIZE, SAMPLES, BATCH = 16, 10, 2, 8, 4
CELL = "s@rl"
SECONDS = ("write_s", "start_s")
"""What no two runs share of a round's figures."""
WRONG = ANSWER.replace("1", "2")


def recipe_of(student: Path) -> Recipe:
    objective = {"kind": "reinforce", "samples": SAMPLES, "steps_per_round": SIZE, "max_tokens": 40}
    return Recipe.model_validate(
        {
            "name": "rl",
            "device": "cpu",
            "models": {"student": {"sources": [str(student)]}},
            "prompts": {"sources": [{"kind": "file", "path": "p.jsonl"}]},
            "teachers": [{"name": "long", "model": "student", "style": "long"}],
            "mixes": [{"name": "rl", "weights": {"long": 1.0}, "objective": objective | {"learning_rate": 5e-3}}],
            "students": [{"name": "s", "model": "student", "tune": {"kind": "lora", "rank": 8}}],
            "train": {"budget": "steps", "num_steps": STEPS, "batch_size": BATCH, "max_length": 160},
            "serve": {"engine": {"max_model_len": 256, "kv_cache_gib": 0.1}},
            "evaluate": {"benchmarks": ["gsm8k"]},
        }
    )


def write_arm(run_dir: RunDir) -> None:
    """The files of the stages before: prompts whose answer is 1, and the arm's rows."""
    problems = [
        dataclasses.replace(prompt(number), problem=f"What is {number + 10} - {number + 9}?", reference="1")
        for number in range(NUM_ROWS)
    ]
    run_dir.write_rows(problems, Prompt, "prompts", "prompts.parquet")
    rows = [
        Example(
            f"t{n}", one.prompt_id, "rl", "long", "long", [Message("user", one.problem), Message("assistant", ANSWER)]
        )
        for n, one in enumerate(problems)
    ]
    run_dir.write_rows(rows, Example, "mix", "rl.parquet")
    details = {"rl": {"rows": NUM_ROWS, "tokens": NUM_ROWS * len(ANSWER)}}
    run_dir.write_manifest(Manifest("mix", "", details={"mixes": details}), "mix")


class Rewarded:
    """A run whose train stage has run once, of a student that answers right half of the time."""

    def __init__(self, folder: Path) -> None:
        student = make_tiny_model(folder / "student")
        teach_answers(student, ANSWER, WRONG)
        self.recipe, self.folder, self.run_dir = recipe_of(student), folder, RunDir(str(folder / "run"))
        write_arm(self.run_dir)
        self.manifest = self.train()

    def train(self) -> Manifest:
        return run_train_stage(self.recipe, self.folder, self.run_dir)

    def figures(self, number: int) -> dict[str, Any]:
        return dict(json.loads(self.run_dir.read_bytes(*Training(CELL).round(number, "json")) or b"{}"))


@pytest.fixture(scope="module")
def rewarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rewarded]:
    yield Rewarded(tmp_path_factory.mktemp("rl"))


def test_right_answers_become_likelier_from_round_to_round(rewarded: Rewarded) -> None:
    lines, rounds = read_metrics(rewarded.run_dir, CELL), [rewarded.figures(one) for one in range(STEPS // SIZE)]
    assert len(lines) == STEPS and all(line.rewards for line in lines)
    assert all(one["answers"] == SIZE * BATCH * SAMPLES for one in rounds)
    assert 0.2 < rounds[0]["right"] < 0.8, "at first it is right about half of the time"
    assert rounds[-1]["right"] > rounds[0]["right"] + 0.15, [one["right"] for one in rounds]
    assert rewarded.manifest.details["cells"][CELL]["rewards"]["right"] > rounds[0]["right"]


def test_an_answer_is_a_row_behind_its_prompt_and_has_its_verdict(rewarded: Rewarded) -> None:
    rows = rewarded.run_dir.read_table(*Training(CELL).round(0, "parquet"), row_type=OwnAnswer).to_pylist()
    whole = [row for row in rows if row["is_finished"] and row["text"].strip() in (ANSWER, WRONG)]
    assert len(whole) > len(rows) / 2
    assert {(row["text"].strip(), row["verdict"]) for row in whole} == {(ANSWER, "CORRECT"), (WRONG, "INCORRECT")}


def test_run_again_no_round_is_written_twice(rewarded: Rewarded) -> None:
    files = [rewarded.run_dir.local_path(*Training(CELL).round(one, "parquet")) for one in range(STEPS // SIZE)]
    before = [file.stat().st_mtime_ns for file in files]
    rewarded.train()
    assert [file.stat().st_mtime_ns for file in files] == before


def wait_for(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not found():
        assert time.monotonic() < deadline, "it did not come within five minutes"
        time.sleep(0.02)


def kill_writer_in_the_second_round(run_dir: RunDir) -> None:
    """End the process of the engine. It is held first, so that it dies with the round under way, however fast it is."""
    wait_for(lambda: run_dir.exists(*Training(CELL).round(0, "json")))
    writer = only_child("ray::RoundWriter")
    writer.suspend()
    wait_for(lambda: run_dir.exists(*Training(CELL).checkpoint(SIZE), MARKER))
    time.sleep(1.0)
    assert not run_dir.exists(*Training(CELL).round(1, "json"))
    writer.kill()


def answers_of(run_dir: RunDir, number: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run_dir.read_table(
        *Training(CELL).round(number, "parquet"), row_type=OwnAnswer
    ).to_pylist()
    return rows


def test_a_cell_whose_engine_is_killed_in_a_round_takes_it_again_and_ends_as_it_would_have(
    rewarded: Rewarded, tmp_path: Path
) -> None:
    other = RunDir(str(tmp_path / "run"))
    write_arm(other)
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_writer_in_the_second_round, other)
        manifest = run_train_stage(rewarded.recipe, rewarded.folder, other)
        killed.result()
    attempts = read_attempts(other, CELL)
    assert [(one.outcome, one.first_step) for one in attempts] == [("lost", 0), ("done", SIZE)]
    for number in range(STEPS // SIZE):
        figures = dict(json.loads(other.read_bytes(*Training(CELL).round(number, "json")) or b"{}"))
        known = rewarded.figures(number)
        assert {**figures, **dict.fromkeys(SECONDS)} == {**known, **dict.fromkeys(SECONDS)}, f"round {number + 1}"
        assert answers_of(other, number) == answers_of(rewarded.run_dir, number)
    assert [line.loss for line in read_metrics(other, CELL)] == pytest.approx(
        [line.loss for line in read_metrics(rewarded.run_dir, CELL)], rel=1e-4, abs=1e-6
    )
    assert manifest.details["cells"][CELL]["steps"] == STEPS
