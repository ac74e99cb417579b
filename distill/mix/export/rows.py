"""Streams the rows to export from a run: an arm's examples joined to their prompts, or all traces by prompt."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.core.run_dir import PROMPTS, RunDir, arm_examples, pool_shards
from distill.core.schema import Message, Prompt, Verdict, arrow_schema
from distill.mix.seeded_order import contains, keys_of
from distill.mix.text_buckets import TextBuckets

BATCH_ROWS = 1024
GRADED_BY = ("answer_kind", "entry", "reference_origin")
"""What of a prompt says how its answers are compared: without these an import could not grade them again."""
_MESSAGES = pa.list_(pa.struct(list(arrow_schema(Message))))

EXAMPLE_SCHEMA = pa.schema(
    [
        ("messages", _MESSAGES),
        *((name, pa.string()) for name in ("problem", "answer", "level", "subject", "source")),
        *((name, pa.string()) for name in GRADED_BY),
        *((name, pa.string()) for name in ("prompt_id", "trace_id", "pool", "style", "template_options")),
        ("phase", pa.int64()),
    ]
)
"""Columns are typed and never null: one that is all null in a shard would lose its type."""

GROUPED_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("problem", "answer", "problem_type", "source", "uuid")),
        *((name, pa.string()) for name in GRADED_BY),
        ("is_reasoning_complete", pa.list_(pa.bool_())),
        ("generations", pa.list_(pa.string())),
        ("correctness_math_verify", pa.list_(pa.bool_())),
        ("finish_reasons", pa.list_(pa.string())),
        ("correctness_count", pa.int64()),
        ("pools", pa.list_(pa.string())),
        ("messages", _MESSAGES),
        ("template_options", pa.string()),
    ]
)
"""The columns of open-r1 (OpenR1-Math-220k), a row per prompt, with our `pools` of the generations, with what the
verifier needs to grade them again, and with the template's variables (JSON) that `messages` are asked with."""


def read_prompts(run_dir: RunDir) -> dict[str, dict[str, Any]]:
    """Prompt id -> prompt."""
    rows = run_dir.read_table(*PROMPTS, row_type=Prompt).to_pylist()
    return {row["prompt_id"]: row for row in rows}


def arm_batches(run_dir: RunDir, mix: str, columns: Sequence[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """An arm's examples, in file order."""
    for shard in run_dir.shards(*arm_examples(mix)):
        with run_dir.fs.open(shard) as source:
            for batch in pq.ParquetFile(source).iter_batches(batch_size=BATCH_ROWS, columns=columns):
                yield batch.to_pylist()


def example_rows(run_dir: RunDir, mix: str) -> Iterator[dict[str, Any]]:
    """Rows of `EXAMPLE_SCHEMA`."""
    prompts = read_prompts(run_dir)
    for batch in arm_batches(run_dir, mix):
        for row in batch:
            prompt = prompts[row["prompt_id"]]
            known = {name: prompt[name] for name in ("problem", "level", "subject", "source", *GRADED_BY)}
            own = {name: row[name] for name in EXAMPLE_SCHEMA.names if name in row}
            yield {**own, **known, "answer": prompt["reference"]}


def grouped_rows(run_dir: RunDir, mix: str, folders: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of `GROUPED_SCHEMA`: an arm's prompts with all traces that any pool wrote for them, correct or not."""
    prompts = read_prompts(run_dir)
    taught = {row["prompt_id"]: row for batch in arm_batches(run_dir, mix) for row in batch}
    keys = np.array(sorted(int(name, 16) for name in taught), dtype=np.uint64)
    with TextBuckets(len(keys)) as buckets:
        _spread_traces(run_dir, folders, keys, buckets)
        for start, _ in buckets.spans():
            traces: dict[str, list[dict[str, Any]]] = {}
            for text in buckets.read(start).column("text").to_pylist():
                trace = json.loads(text)
                traces.setdefault(trace["prompt_id"], []).append(trace)
            for name, written in sorted(traces.items()):
                yield grouped_row(prompts[name], written, taught[name])


def _spread_traces(run_dir: RunDir, folders: Sequence[str], keys: NDArray[np.uint64], buckets: TextBuckets) -> None:
    """Store all traces of some prompts, each as a JSON text."""
    count = 0
    columns = ["trace_id", "prompt_id", "pool", "sample_index", "verdict", "finish_reason", "completion"]
    for folder in folders:
        for shard in run_dir.shards(*pool_shards(folder)):
            with run_dir.fs.open(shard) as source:
                for batch in pq.ParquetFile(source).iter_batches(batch_size=BATCH_ROWS, columns=columns):
                    prompt_keys = keys_of(batch.column("prompt_id"), "prompt id")
                    wanted = np.flatnonzero(contains(keys, prompt_keys))
                    texts = pa.array([json.dumps(row) for row in batch.take(pa.array(wanted)).to_pylist()], pa.string())
                    numbers = np.arange(count, count + len(wanted))
                    buckets.add(np.searchsorted(keys, prompt_keys[wanted]), numbers, texts)
                    count += len(wanted)


def grouped_row(
    prompt: Mapping[str, Any], written: Sequence[Mapping[str, Any]], taught: Mapping[str, Any]
) -> dict[str, Any]:
    """The open-r1 row of a prompt, traces by pool and sample. ERROR becomes "not correct": open-r1 has only two."""
    traces = sorted(
        {one["trace_id"]: one for one in written}.values(), key=lambda one: (one["pool"], one["sample_index"])
    )
    correct = [one["verdict"] == Verdict.CORRECT for one in traces]
    return {
        "problem": prompt["problem"],
        "answer": prompt["reference"],
        "problem_type": prompt["subject"],
        "source": prompt["source"],
        "uuid": prompt["prompt_id"],
        **{name: prompt[name] for name in GRADED_BY},
        "is_reasoning_complete": [one["finish_reason"] != "length" for one in traces],
        "generations": [one["completion"] for one in traces],
        "correctness_math_verify": correct,
        "finish_reasons": [one["finish_reason"] for one in traces],
        "correctness_count": sum(correct),
        "pools": [one["pool"] for one in traces],
        "messages": list(taught["messages"]),
        "template_options": taught["template_options"],
    }
