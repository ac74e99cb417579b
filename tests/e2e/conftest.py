"""What end-to-end tests share."""

import json
from typing import Any

import pytest

from tests.fixtures.pipeline_run import NUM_SOLVABLE, REASONED, RECIPE, Setup
from tests.fixtures.tiny_models import make_tiny_model, teach_answers


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("pipeline")
    teacher, student = make_tiny_model(folder / "teacher"), make_tiny_model(folder / "student", seed=1)
    teach_answers(teacher, REASONED)
    solvable: list[Any] = [{"problem": f"What is {n} - {n - 1}?", "answer": "1"} for n in range(10, 10 + NUM_SOLVABLE)]
    unsolvable: list[Any] = [{"problem": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(2, 4)]
    bad: list[Any] = [
        {"problem": ""},
        {"problem": 3, "answer": "1"},
        solvable[0],
        {"problem": "x" * 30_000, "answer": "1"},
    ]
    lines = [json.dumps(row) for row in [*solvable, *unsolvable, *bad]] + ["{torn"]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    held_out = [{"problem": f"What is {n} - {n - 1}?", "answer": "1"} for n in range(40, 46)]
    (folder / "held_out.jsonl").write_text("\n".join(json.dumps(row) for row in held_out))
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(teacher=teacher, student=student))
    return Setup(recipe, folder / "run")
