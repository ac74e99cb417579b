"""A run of one tiny teacher that is disturbed while it writes: its recipe, and what it has put on disk."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill.core.run_dir import RunDir
from distill.core.schema import Trace
from tests.integration.tiny_models import make_tiny_model, teach_one_answer

RECIPE = """
name = "disturbed"
device = "cpu"
models.tiny = {{ sources = ["{model}"] }}
prompts.sources = [{{ kind = "file", path = "prompts.jsonl", answer_kind = "number" }}]
generate = {{ stop_early = false, max_attempts = 1000 }}
mixes = [{{ name = "own", weights = {{ own = 1.0 }} }}]
students = [{{ name = "s", model = "tiny" }}]
train.max_length = 128
benchmarks.held-out.source = {{ kind = "file", path = "held_out.jsonl", answer_kind = "number" }}
evaluate = {{ benchmarks = ["held-out"], sampling = {{ temperature = 0.0, max_tokens = 40 }} }}
[[teachers]]
name = "own"
model = "tiny"
style = "short"
num_samples = {num_samples}
replicas = [{engines}, {engines}]
sampling = {{ temperature = 0.2, max_tokens = {max_tokens} }}
engine = {{ max_model_len = {max_model_len}, kv_cache_gb = 0.1, kwargs = {{ max_num_seqs = {max_num_seqs} }} }}
"""


def write_recipe(
    folder: Path, *, num_prompts: int, num_samples: int, is_taught: bool = True, engines: int = 1, max_tokens: int = 40
) -> Path:
    """A recipe with its model and prompts; a model that is not taught writes `max_tokens` each time."""
    model = make_tiny_model(folder / "model")
    if is_taught:
        teach_one_answer(model)
    problems = [{"problem": f"What is {n} - {n - 1}?", "answer": "1"} for n in range(100, 100 + num_prompts)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, problems)))
    (folder / "held_out.jsonl").write_text(json.dumps({"problem": "What is 9 - 8?", "answer": "1"}))
    path = folder / "recipe.toml"
    sizes = {"num_samples": num_samples, "engines": engines, "max_tokens": max_tokens}
    path.write_text(RECIPE.format(model=model, max_model_len=216 + max_tokens, max_num_seqs=64, **sizes))
    return path


SHARDS = "generate/own-*/*.parquet"


def shards(run: Path) -> set[Path]:
    """The files with traces."""
    return set(run.glob(SHARDS))


def traces_on_disk(run: Path) -> dict[str, dict[str, Any]]:
    """Trace id -> trace."""
    return {row["trace_id"]: row for row in rows_on_disk(run)}


def rows_on_disk(run: Path) -> list[dict[str, Any]]:
    """All rows of all shards: a trace may stand in two while the run is at work."""
    run_dir, rows = RunDir(str(run)), []
    for shard in shards(run):
        with suppress(FileNotFoundError):  # a part whose whole has just been written
            rows += run_dir.read_table("generate", shard.parent.name, shard.name, row_type=Trace).to_pylist()
    return rows
