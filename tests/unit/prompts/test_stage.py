"""Stage 1 says what it left out, of the prompts and of each benchmark. Too few prompts for Ray."""

import io
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distill.cli.evaluate import eval_config, read_benchmarks
from distill.config.benchmarks import BenchmarkConfig
from distill.config.load import parse_recipe
from distill.core.errors import InputError
from distill.core.run_dir import RunDir
from distill.prompts.stage import prompts_stage, read_benchmark
from distill.run.context import RunContext

EXAM = [{"problem": "What is 2 + 2?", "answer": "4"}, {"problem": "Show it.", "answer": "proof"}, {"answer": "4"}]
TRAINING = [{"problem": "What is 3 + 4?", "answer": "7"}, {"problem": "Which is it?", "answer": None}]


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return {"kind": "file", "path": str(folder / name)}


def test_a_runs_console_and_manifest_name_the_dropped_rows_of_each_benchmark(tmp_path: Path) -> None:
    clean = write(tmp_path, "clean.jsonl", EXAM[:1])
    recipe = {
        "name": "told",
        "device": "cpu",
        "models": {"none": {"sources": ["none"]}},
        "prompts": {"sources": [write(tmp_path, "prompts.jsonl", TRAINING)]},
        "teachers": [{"name": name, "model": "none", "style": name} for name in ("long", "short")],
        "mixes": [{"name": "half", "weights": {"long": 0.5, "short": 0.5}}],
        "students": [{"name": "student", "model": "none"}],
        "benchmarks": {"exam": {"source": write(tmp_path, "exam.jsonl", EXAM)}, "clean": {"source": clean}},
        "evaluate": {"benchmarks": ["exam", "clean"]},
    }
    said, run_dir = io.StringIO(), RunDir(str(tmp_path / "run"))
    with ExitStack() as resources:
        console = Console(file=said, width=200)
        manifest = prompts_stage(RunContext(parse_recipe(recipe), tmp_path, run_dir, console, resources))
    why = {"answer says that there is none": 1, "no problem": 1}
    assert "1 prompts, dropped: {'no answer': 1}; benchmarks: {'exam': 1, 'clean': 1}\n" in said.getvalue()
    assert f"of benchmark exam dropped: {why}\n" in said.getvalue() and "benchmark clean" not in said.getvalue()
    assert manifest.details["benchmark_drops"] == {"exam": why}


def test_an_error_says_what_conditions_left_out(tmp_path: Path) -> None:
    source = write(tmp_path, "exam.jsonl", [{**EXAM[0], "difficulty": "5/8"}, {**EXAM[0], "difficulty": 0.9}])
    config = BenchmarkConfig.model_validate({"source": {**source, "where": {"difficulty": {"max": 0.7}}}})
    why = r"'excluded by where: its difficulty is no number': 1, 'excluded by where': 1"
    with pytest.raises(InputError, match=why):
        read_benchmark("exam", config, tmp_path, max_problem_chars=100, seed=0)


def test_an_evaluation_without_a_run_says_so_too(tmp_path: Path) -> None:
    source = write(tmp_path, "exam.jsonl", EXAM)
    overrides = [f'benchmarks.exam.source={{kind="file", path="{source["path"]}"}}']
    said = io.StringIO()
    config = eval_config("m", ["exam"], "http://host", overrides)
    found = read_benchmarks(config, RunDir(str(tmp_path / "eval")), Console(file=said, width=200))
    assert [one.problem for one in found["exam"]] == ["What is 2 + 2?"]
    assert "of benchmark exam dropped: {'answer says that there is none': 1, 'no problem': 1}" in said.getvalue()
