"""A run directory up to verify, and a `Run` on it whose models are a tokenizer of bytes: for tests of the mix stage."""

import io
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.core.schema import IndexRow, Prompt, Trace, content_hash
from distill.generate.traces import INDEX_COLUMNS
from distill.models.resolve import ResolvedModel
from distill.run.context import Run
from distill.run.pools import Pool
from tests.unit.test_render import tokenizer

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "seed": 5,
    "models": {"m": {"sources": ["somewhere/model"]}},
    "prompts": {"sources": [{"kind": "file", "path": "prompts.jsonl"}]},
    "teachers": [{"name": "long", "model": "m", "style": "long"}, {"name": "short", "model": "m", "style": "short"}],
    "mixes": [
        {"name": "long", "policy": "single", "pool": "long"},
        {"name": "short", "weights": {"short": 1.0}},
        {"name": "mix-long", "weights": {"long": 0.2, "short": 0.8}},
    ],
    "students": [{"name": "s", "model": "m"}],
    "student_chat": {"system": "Be brief.", "template": "Q: {problem}"},
    "train": {"max_length": 400},
    "evaluate": {"benchmarks": ["gsm8k"]},
}


def prompt(number: int) -> Prompt:
    problem = f"What is {number} + 1?"
    return Prompt(
        content_hash(f"p{number}"), problem, str(number + 1), "number", "s", f"Level {number % 5}", "sums", ""
    )


def trace(number: int, pool: str, sample: int = 0, **changes: Any) -> Trace:
    text = f" {number} and 1 make {number + 1}, sample {sample}. " + ("So I say it slowly. " if pool == "long" else "")
    values: dict[str, Any] = {
        "trace_id": content_hash(f"p{number}", pool, sample),
        "prompt_id": content_hash(f"p{number}"),
        "pool": pool,
        "style": pool,
        "fingerprint": "f",
        "sample_index": sample,
        "seed": 0,
        "completion": text,
        "reasoning": "",
        "answer": "",
        "prompt_tokens": 9,
        "completion_tokens": 7,
        "finish_reason": "stop",
        "sampling": "{}",
        "engine": "e",
        "attempts": 1,
        "verdict": "CORRECT",
        "extracted": str(number + 1),
        "rule": "exact",
        "verifier": "v",
        "detail": "",
    }
    return Trace(**(values | changes))


def make_run(
    folder: Path,
    traces: list[Trace],
    *,
    num_prompts: int,
    shards: int = 1,
    change: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Run:
    """A run whose verify stage is done; `change` edits the raw recipe."""
    run_dir, recipe = RunDir(str(folder / "run")), Recipe.model_validate(change(dict(RECIPE)))
    run_dir.write_rows([prompt(number) for number in range(num_prompts)], Prompt, "prompts", "prompts.parquet")
    for pool in ("long", "short"):
        mine = [one for one in traces if one.pool == pool]
        for shard in range(shards):
            run_dir.write_rows(mine[shard::shards], Trace, "generate", f"{pool}-f", f"{shard}.parquet")
    index = [IndexRow(**{name: getattr(one, name) for name in INDEX_COLUMNS}) for one in traces]
    run_dir.write_rows(index, IndexRow, "verify", "verdicts.parquet")
    return open_run(folder, run_dir, recipe)


def open_run(folder: Path, run_dir: RunDir, recipe: Recipe) -> Run:
    """A `Run` with its models in place."""
    model = folder / "model"
    tokenizer().save_pretrained(model)
    current = Run(recipe, folder, run_dir, Console(file=io.StringIO(), width=200), ExitStack())
    resolved = ResolvedModel(**{field: _filler(field, model) for field in ResolvedModel.__dataclass_fields__})
    current.__dict__["models"] = dict.fromkeys(recipe.models, resolved)
    current.__dict__["pools"] = tuple(Pool(teacher, str(model), "f") for teacher in recipe.teachers)
    return current


def _filler(field: str, model: Path) -> Any:
    return str(model) if field == "path" else () if field == "skipped" else field
