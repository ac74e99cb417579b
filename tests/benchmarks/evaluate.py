"""Evaluation of same-shaped students in one engine against an engine for each, in one run.

    python -m tests.benchmarks.evaluate [--students N] [--problems N]

Students of full weights: the quickstart's 26-layer student, with each one's weights changed a little. Both sides score
them on the same problems with the quickstart's settings, each with a Ray of its own that is up beforehand: one with
`serve.share_engines`, one without. Wall time of `score_models`, so with starts and stops of engines. Every answer of
both sides is compared. The last line is a JSON object; goal `ratio_vs_separate_engines` <= 0.35.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from distill.config.load import find_recipe, load_recipe
from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, benchmark_scores
from distill.core.schema import Score
from distill.evaluate.models import EvaluatedModel
from distill.evaluate.score_models import score_models
from distill.models.folder import model_files, weight_files
from distill.models.resolve import resolve_model
from distill.prompts.stage import prompts_stage
from distill.run.context import RunContext

BASE = "smollm2-26-layers"
BENCHMARK = "small-sums"
NOISE = 0.02
"""Of each student's weights, in standard deviations of the weight."""


def make_students(folder: Path, base: Path, count: int) -> list[EvaluatedModel]:
    """Folders of the base model's shapes, with other weights each."""
    return [_make_student(folder / f"student-{seed}", base, seed) for seed in range(count)]


def _make_student(target: Path, base: Path, seed: int) -> EvaluatedModel:
    target.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    weights = weight_files(base)
    for file in model_files(base):
        if file in weights:
            changed = {name: _changed(weight, generator) for name, weight in load_file(file).items()}
            save_file(changed, target / file.name, metadata={"format": "pt"})
        else:
            (target / file.name).write_bytes(file.read_bytes())
    return EvaluatedModel(target.name, str(target), None, f"key of {target.name}", tokenizer=str(base))


def _changed(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(weight.shape, generator=generator)
    return (weight + NOISE * weight.float().std() * noise).to(weight.dtype)


def scored(
    recipe: Recipe, folder: Path, students: Sequence[EvaluatedModel]
) -> tuple[float, dict[str, float], dict[str, list[str]]]:
    """Wall seconds, the stage's own times, and the completions of every student."""
    with ExitStack() as resources:
        run = RunContext(recipe, find_recipe("quickstart").parent, RunDir(str(folder)), Console(stderr=True), resources)
        prompts_stage(run)
        session = run.session
        begun = time.monotonic()
        result = score_models(recipe, run.run_dir, lambda: session, run.console, evaluated=students, plain=students)
        wall_s = time.monotonic() - begun
        answers = {model.name: _completions(run.run_dir, model.name) for model in students}
    return wall_s, result.times, answers


def _completions(run_dir: RunDir, model: str) -> list[str]:
    rows = run_dir.read_table(*benchmark_scores(model, BENCHMARK), row_type=Score).to_pylist()
    ordered = sorted(rows, key=lambda row: (row["prompt_id"], row["sample_index"]))
    return [row["completion"] for row in ordered]


def main() -> None:
    """Print both sides and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=8, metavar="N")
    parser.add_argument("--problems", type=int, default=24, metavar="N")
    arguments = parser.parse_args()
    recipe = load_recipe(find_recipe("quickstart"), [f"benchmarks.{BENCHMARK}.num_prompts={arguments.problems}"])
    sides: dict[str, dict[str, Any]] = {}
    answers: dict[str, dict[str, list[str]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(resolve_model(BASE, recipe.models[BASE]).path)
        students = make_students(Path(temporary) / "students", base, arguments.students)
        for name, shares in (("one_engine", True), ("separate_engines", False)):
            section = recipe.serve.model_copy(update={"share_engines": shares})
            one = recipe.model_copy(update={"serve": section})
            wall_s, times, answers[name] = scored(one, Path(temporary) / name, students)
            sides[name] = {"wall_s": round(wall_s, 1), **times}
    pairs = [
        pair
        for student in students
        for pair in zip(answers["one_engine"][student.name], answers["separate_engines"][student.name], strict=True)
    ]
    equal = sum(mine == other for mine, other in pairs) / len(pairs)
    ratio = sides["one_engine"]["wall_s"] / sides["separate_engines"]["wall_s"]
    told = {"ratio_vs_separate_engines": round(ratio, 3), "equal_answers": round(equal, 4)}
    print(f"{ratio:6.3f}  wall time of one engine over separate ones; {equal:.1%} of {len(pairs)} answers are equal")
    for name, side in sides.items():
        print(f"        {name}: {side}")
    print(json.dumps(told | {"students": arguments.students, "problems": arguments.problems} | sides))


if __name__ == "__main__":
    main()
