"""A published folder in vLLM, with nothing of ours, answers as `distill chat` does, which is the student's endpoint."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.vllm_args import engine_arguments, engine_env
from distill.cli import chat as chatting
from distill.cli.ask import Student
from distill.cli.main import main
from distill.core.run_dir import model_record
from distill.ops.publish.student import TrainedStudent
from distill.ops.publish.write import write_folder
from serve.api.modes import with_mode_line
from serve.api.reasoning_parser import Delimiters, Split, split
from serve.client import question_turns
from tests.fixtures.published_run import MODEL, trained
from tests.fixtures.reasoning_student import MODES, make_reasoning_student
from tests.fixtures.report_run import make_recipe

PROBLEMS = [f"{number} - {number - 1}?" for number in range(2, 22)]
MAX_TOKENS = 48
pytestmark = pytest.mark.long  # two engines, one after the other

ALONE = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    folder, settings, max_tokens, asked, answers = sys.argv[1:]
    sampling = SamplingParams(temperature=0, max_tokens=int(max_tokens))
    found = LLM(model=folder, **json.loads(settings)).chat(json.load(open(asked)), sampling, use_tqdm=False)
    json.dump([(one.outputs[0].text, one.outputs[0].finish_reason) for one in found], open(answers, "w"))
"""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> TrainedStudent:
    folder = tmp_path_factory.mktemp("run")
    base = folder / "base"
    make_reasoning_student(base)
    recipe = make_recipe(
        device="cpu",
        models={name: {"sources": [str(base)]} for name in ("smol-135m", "smol-8l")},
        mixes=[{"name": "mix-long", "weights": {"long": 0.5, "short": 0.5}, "modes": MODES}],
        serve={"engine": {"max_model_len": 512, "kv_cache_gib": 0.1}},
    )
    found = trained(folder / "run", recipe, lambda path: shutil.copytree(base, path))
    found.run_dir.remove(*model_record("smol-135m"))  # a record without content, for licences
    return found


def conversations() -> list[list[dict[str, str]]]:
    """Every problem in both modes, and one with a turn before it."""
    alone = [with_mode_line(question_turns(text, {}), line) for line in MODES.values() for text in PROBLEMS]
    before = [*alone[0], {"role": "assistant", "content": "The answer is \\boxed{1}."}]
    return [*alone, [*before, {"role": "user", "content": PROBLEMS[1]}]]


def test_vllm_alone_and_distill_chat_give_the_same_greedy_answers(
    student: TrainedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "published"
    write_folder(student, ("safetensors",), target, Console(quiet=True))
    expected = alone(target, tmp_path)
    said: list[Split] = []
    monkeypatch.setattr(chatting, "chat", lambda found, console: ask_all(found, said.append))
    assert main(["chat", student.run_dir.uri, MODEL, "--max-tokens", str(MAX_TOKENS)]) == 0
    assert said == expected
    assert all("\\boxed{1}" in one.content for one in said)
    first_turns = said[:-1]  # a second turn is what the student was never taught: only that it is the same is known
    assert [bool(one.reasoning) for one in first_turns] == [True] * 20 + [False] * 20


def alone(folder: Path, scratch: Path) -> list[Split]:
    """What vLLM says in a process that knows of the folder only; every answer ends by itself."""
    script, asked, answers = scratch / "alone.py", scratch / "asked.json", scratch / "answers.json"
    script.write_text(ALONE)
    asked.write_text(json.dumps(conversations()))
    settings = engine_arguments("cpu", max_model_len=512, kv_cache_gib=0.1, extra={})
    environment = {**os.environ, **engine_env("cpu", str(folder), 1)}
    command = [sys.executable, str(script), str(folder), json.dumps(settings)]
    command += [str(MAX_TOKENS), str(asked), str(answers)]
    done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[tuple[str, str]] = json.loads(answers.read_text())
    assert {reason for _, reason in found} == {"stop"}
    return [split(text, Delimiters()) for text, _ in found]


def ask_all(found: Student, keep: Callable[[Split], Any]) -> int:
    """Ask what the conversation of a person would: the modes are the endpoint's own."""
    assert list(found.card()["modes"]) == list(MODES)
    asked = [(question_turns(text, found.card()), mode) for mode in MODES for text in PROBLEMS]
    before = [*asked[0][0], {"role": "assistant", "content": "The answer is \\boxed{1}."}]
    asked.append(([*before, {"role": "user", "content": PROBLEMS[1]}], "long"))
    for turns, mode in asked:
        pieces = list(found.answer(turns, mode))
        reasoning = "".join(piece.text for piece in pieces if piece.is_reasoning)
        keep(Split(reasoning, "".join(piece.text for piece in pieces if not piece.is_reasoning)))
    return 0
