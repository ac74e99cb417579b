"""Imitation, then refinement by the teacher on the student's own answers, for real: an engine writes, our scorer
scores, and the cell is trained from its parent's adapter."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from distill.config.recipe import Recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, Training
from distill.core.schema import Example, Message, Prompt
from distill.models.chat_template import chat_messages, render_prompt
from distill.models.resolve import load_tokenizer
from distill.train.rollouts.score import ITSELF
from distill.train.rollouts.store import FIGURES, ROLLOUTS, read_rollouts, read_scores
from distill.train.worker.metrics import read_metrics
from tests.fixtures.mix_run import prompt
from tests.fixtures.tiny_models import ANSWER, make_tiny_model, teach_one_answer
from tests.fixtures.train_run import run_train_stage

pytestmark = pytest.mark.long  # six processes that load an engine or a trainer, one after another

NUM_ROWS, STEPS = 32, 16
CELL = "s@refine"
PROBLEMS = [f"What is {n} - {n - 1}?" for n in range(10, 10 + NUM_ROWS)]
ENGINE = {"max_model_len": 256, "kv_cache_gib": 0.1}


def recipe_of(student: Path, teacher: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "refine",
            "device": "cpu",
            "models": {"student": {"sources": [str(student)]}, "teacher": {"sources": [str(teacher)]}},
            "prompts": {"sources": [{"kind": "file", "path": "p.jsonl"}]},
            "teachers": [
                {"name": "long", "model": "teacher", "style": "long", "chat": {"template": "Think. {problem}"}}
            ],
            "mixes": [
                {"name": "sft", "weights": {"long": 1.0}},
                {
                    "name": "refine",
                    "weights": {"long": 1.0},
                    "after": "sft",
                    "num_steps": STEPS,
                    "objective": {"kind": "match", "max_tokens": 40, "learning_rate": 2e-3},
                },
            ],
            "students": [{"name": "s", "model": "student", "tune": {"kind": "lora", "rank": 8, "learning_rate": 1e-2}}],
            "train": {"budget": "steps", "num_steps": 60, "batch_size": 8, "max_length": 160},
            "serve": {"engine": ENGINE},
            "evaluate": {"benchmarks": ["gsm8k"]},
        }
    )


def write_arms(run_dir: RunDir, arms: Sequence[str] = ("sft", "refine")) -> None:
    """The files of the stages before: prompts, and the arms with the teacher's traces."""
    problems = [dataclasses.replace(prompt(number), problem=text) for number, text in enumerate(PROBLEMS)]
    run_dir.write_rows(problems, Prompt, "prompts", "prompts.parquet")
    details = {}
    for arm in arms:
        turns = [[Message("user", one.problem), Message("assistant", ANSWER)] for one in problems]
        rows = [
            Example(f"t{number}", one.prompt_id, arm, "long", "long", turns[number])
            for number, one in enumerate(problems)
        ]
        run_dir.write_rows(rows, Example, "mix", f"{arm}.parquet")
        details[arm] = {"rows": len(rows), "tokens": len(rows) * len(ANSWER)}
    run_dir.write_manifest(Manifest("mix", "", details={"mixes": details}), "mix")


class Refined:
    """A run whose train stage has run once."""

    def __init__(self, folder: Path) -> None:
        self.teacher = make_tiny_model(folder / "teacher")
        teach_one_answer(self.teacher)
        self.recipe = recipe_of(make_tiny_model(folder / "student", seed=1), self.teacher)
        self.folder, self.run_dir = folder, RunDir(str(folder / "run"))
        write_arms(self.run_dir)
        self.manifest = self.train()

    def train(self) -> Manifest:
        return run_train_stage(self.recipe, self.folder, self.run_dir)

    @property
    def details(self) -> dict[str, Any]:
        return dict(self.manifest.details["cells"][CELL])


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refined]:
    yield Refined(tmp_path_factory.mktemp("refine"))


def test_the_student_comes_nearer_to_its_teacher_on_its_own_answers(refined: Refined) -> None:
    lines, before = read_metrics(refined.run_dir, CELL), refined.details["rollouts"]
    assert len(lines) == STEPS and refined.details["after"] == ["s@sft"]
    assert before["start_kl"] > 0 and before["answers"] == NUM_ROWS
    assert lines[0].match["drift"] == pytest.approx(0.0, abs=0.05), "the first step finds the student that wrote"
    assert refined.details["match"]["kl"] < before["start_kl"]
    assert {"kl_first", "kl_middle", "kl_last", "end"} <= lines[-1].match.keys()


def test_scored_by_itself_the_student_is_what_its_engine_sampled_from(refined: Refined) -> None:
    assert abs(refined.details["rollouts"]["self_difference"]) < 0.05
    rollouts = read_rollouts(refined.run_dir, CELL)
    own = read_scores(refined.run_dir, CELL, ITSELF)
    assert len(own) == len(rollouts) == NUM_ROWS
    assert all(len(own[one.trace_id]) == len(one.tokens) == len(one.sampled) for one in rollouts)
    assert any(one.is_finished for one in rollouts)


def test_the_teacher_scores_after_its_own_prompt(refined: Refined) -> None:
    scores = read_scores(refined.run_dir, CELL, "long")
    tokenizer = load_tokenizer(str(refined.teacher))
    model = AutoModelForCausalLM.from_pretrained(refined.teacher, dtype=torch.float32).eval()
    (teacher,) = refined.recipe.teachers
    for one in read_rollouts(refined.run_dir, CELL)[:3]:
        problem = PROBLEMS[int(one.trace_id.removeprefix("t"))]
        asked = render_prompt(tokenizer, chat_messages(problem, teacher.chat))  # type: ignore[union-attr]
        ids = torch.tensor([[*asked, *one.tokens.tolist()]])
        with torch.no_grad():
            chances = model(ids).logits[0].log_softmax(dim=1)[len(asked) - 1 : -1]
        known = chances.gather(1, ids[0, len(asked) :, None])[:, 0]
        assert scores[one.trace_id].tolist() == pytest.approx(known.tolist(), abs=1e-3)


def test_run_again_nothing_is_written_scored_or_trained_twice(refined: Refined) -> None:
    names = ["manifest.json", FIGURES, ROLLOUTS, "scores-long.parquet"]
    files = [refined.run_dir.local_path(*Training(CELL).folder, name) for name in names]
    before = [file.stat().st_mtime_ns for file in files]
    refined.train()
    assert [file.stat().st_mtime_ns for file in files] == before
