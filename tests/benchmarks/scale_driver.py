"""The driver's own part of `tests.benchmarks.scale`: filtering and counting traces, beside the way of before.

    python -m tests.benchmarks.scale_driver [--rows N]

A run of N traces (two pools, one trace a prompt, shards of 1,024) is written. Every way has a process of its own.

* filters: features of N traces' texts from the shards to the files of features, with the quickstart's tokenizer; CPU
  time of all threads. Before: each trace rendered by itself, N / 20 of them.
* count: what the generate and verify stages read of N traces (state of every prompt, duplicates, counts, index) at N
  and N / 4; the growth of the peak, bytes per trace. Before: the columns as tables of text.

The last line is a JSON object, ratios first.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.config.teachers import ChatFormat, VllmTeacher
from distill.core.run_dir import PROMPTS, VERDICTS, RunDir, pool_shards, rows_table
from distill.core.schema import Prompt, Trace, arrow_schema, content_hash
from distill.run.pools import Pool

POOLS = tuple(
    Pool(VllmTeacher(name=name, model="m", style=name, num_samples=1), "m", "f") for name in ("long", "short")
)
SHARD_ROWS = 1024
WORDS = 400
"""Words that the texts are made of, besides numbers."""


def write_run(folder: Path, num_traces: int) -> None:
    """Prompts and traces of a run, and nothing else."""
    run_dir, num_prompts = RunDir(str(folder)), num_traces // len(POOLS)
    with run_dir.table_writer(arrow_schema(Prompt), *PROMPTS) as writer:
        for start in range(0, num_prompts, SHARD_ROWS):
            numbers = range(start, min(num_prompts, start + SHARD_ROWS))
            writer.write_table(rows_table(map(_prompt, numbers), Prompt))
            for pool in POOLS:
                traces = rows_table((_trace(number, pool.name) for number in numbers), Trace)
                run_dir.write_table(traces, *pool_shards(pool.folder, f"{start:010}.parquet"))


def _prompt(number: int) -> Prompt:
    problem = f"What is {number} + {number % 97}?"
    return Prompt(content_hash(number), problem, str(number + number % 97), "number", "stub", "", "", "")


def _trace(number: int, pool: str) -> Trace:
    """Some 60 words in an order of its own; three numbers of its own."""
    lot = random.Random(f"{number} {pool}")
    words = [f"w{lot.randrange(WORDS)}" for _ in range(20)]
    text = f"We add {number % 97} to {number}. " + " ".join(words) + f". So {number} + {number % 97} it is, that is:"
    text += f" {' '.join(words[:10])}.\nThe answer is \\boxed{{{number + number % 97}}}."
    values = {
        "trace_id": content_hash(number, pool),
        "prompt_id": content_hash(number),
        "pool": pool,
        "style": pool,
        "fingerprint": "f" * 16,
        "verdict": "INCORRECT" if number % 4 == 0 else "CORRECT",
        "finish_reason": "stop",
        "rule": "exact",
        "completion": text,
        "prompt_tokens": 24,
        "completion_tokens": 96,
    }
    return Trace(**{field.name: values.get(field.name, "" if field.type == pa.string() else 0) for field in SCHEMA})


SCHEMA = arrow_schema(Trace)


# Filters


def tokenizer_folder() -> str:
    """The quickstart's model."""
    from distill.config.load import find_recipe, load_recipe
    from distill.models.resolve import resolve_model

    name, model = next(iter(load_recipe(find_recipe("quickstart"), []).models.items()))
    return str(resolve_model(name, model).folder)


def filters_now(run_dir: RunDir) -> dict[str, float]:
    """As the mix stage does."""
    from distill.mix.feature_store import compute_features, load_features
    from distill.mix.seeded_order import keys_of
    from distill.models.resolve import load_tokenizer

    tokenizer = load_tokenizer(run_dir.read_lines("tokenizer.txt")[0])
    traces = [keys_of(one.column(0), "id") for pool in POOLS for one in _ids(run_dir, pool, "trace_id")]
    prompts = keys_of(run_dir.read_table(*PROMPTS, row_type=Prompt, columns=("prompt_id",)).column(0), "id")
    started, wall = time.process_time(), time.monotonic()
    folders = tuple(pool.folder for pool in POOLS)
    work = compute_features(
        run_dir,
        "now",
        np.sort(np.concatenate(traces)),
        np.sort(prompts),
        folders=folders,
        chat=ChatFormat(),
        tokenizers=[tokenizer],
    )
    rows = [*work][-1]
    seconds, wall = time.process_time() - started, time.monotonic() - wall
    tokens = load_features(run_dir, "now").row_tokens
    return {"rows": rows, "per_cpu_s": rows / seconds, "per_wall_s": rows / wall, "tokens": float(tokens.sum())}


def filters_before(run_dir: RunDir) -> dict[str, float]:
    """Each trace by itself: every twentieth shard, all of it."""
    from distill.mix.trace_features import repeated_share
    from distill.models.chat_template import chat_messages, render_example
    from distill.models.resolve import load_tokenizer

    tokenizer, chat = load_tokenizer(run_dir.read_lines("tokenizer.txt")[0]), ChatFormat()
    columns = ("prompt_id", "problem")
    problems = dict(zip(*map(pa.ChunkedArray.to_pylist, run_dir.read_table(*PROMPTS, row_type=Prompt, columns=columns)),
        strict=True))  # fmt: skip
    started, rows, lengths = time.process_time(), 0, 0
    for pool in POOLS:
        for shard in run_dir.shards(*pool_shards(pool.folder))[::20]:
            for trace in run_dir.read_table(*pool_shards(pool.folder, Path(shard).name), row_type=Trace).to_pylist():
                turns = [*chat_messages(problems[trace["prompt_id"]], chat)]
                turns.append({"role": "assistant", "content": trace["completion"].strip()})
                row = render_example(tokenizer, turns, sys.maxsize)
                words = trace["completion"].split()
                repeated_share(words)
                content_hash("completion", words)
                assert not isinstance(row, str)
                rows, lengths = rows + 1, lengths + len(row.input_ids)
    return {"rows": rows, "per_cpu_s": rows / (time.process_time() - started), "tokens": float(lengths)}


def _ids(run_dir: RunDir, pool: Pool, *columns: str) -> Any:
    return run_dir.column_tables(columns, *pool_shards(pool.folder))


# Counting


def count_now(run_dir: RunDir) -> dict[str, float]:
    """As the stages do, one after another."""
    from distill.core.memory import release_freed_memory
    from distill.generate.pool_index import read_pool_index
    from distill.generate.trace_shards import drop_duplicates
    from distill.generate.traces import SCHEMA as INDEX
    from distill.generate.traces import read_traces
    from distill.run.context import read_prompt_ids
    from distill.verify.stage import write_index

    states = {pool.name: read_pool_index(run_dir, *pool_shards(pool.folder)) for pool in POOLS}
    found: dict[str, float] = {"states": sum(len(one.samples) for one in states.values())}
    for pool in POOLS:
        drop_duplicates(run_dir, pool.folder)
    ids = read_prompt_ids(run_dir)
    kept = [read_traces(run_dir, pool, ids, columns=("completion_tokens",)) for pool in POOLS]
    found["tokens"] = float(sum(one.columns["completion_tokens"].sum() for one in kept))
    del states, kept
    release_freed_memory()
    with run_dir.table_writer(INDEX, *VERDICTS) as writer:
        for pool in POOLS:
            found[pool.name] = float(write_index(run_dir, pool, ids, writer, {})[0]["correct"])
    return found


def count_before(run_dir: RunDir) -> dict[str, float]:
    """Every column as text in tables, sorted by a copy, all pools at once."""
    from distill.generate.pool_index import read_pool_index
    from distill.generate.traces import INDEX_COLUMNS
    from distill.run.context import read_prompt_ids

    states = {pool.name: read_pool_index(run_dir, *pool_shards(pool.folder)) for pool in POOLS}
    found: dict[str, float] = {"states": sum(len(one.samples) for one in states.values())}
    ids, tables = read_prompt_ids(run_dir).combine_chunks(), list[pa.Table]()
    for pool in POOLS:
        table = pa.concat_tables(_ids(run_dir, pool, *INDEX_COLUMNS)).combine_chunks()
        table = table.take(pc.sort_indices(table, [("trace_id", "ascending")]))
        assert pc.all(pc.is_in(table.column("prompt_id"), value_set=ids)).as_py()
        correct = table.filter(pc.equal(table.column("verdict"), "CORRECT"))
        assert pc.count_distinct(correct.column("prompt_id")).as_py() == correct.num_rows
        found[pool.name] = float(correct.num_rows)
        tables.append(table)
    found["tokens"] = float(sum(pc.sum(table.column("completion_tokens")).as_py() for table in tables))
    run_dir.write_table(pa.concat_tables(tables), *VERDICTS)
    return found


WAYS: dict[str, Callable[[RunDir], dict[str, float]]] = {
    "filters_now": filters_now,
    "filters_before": filters_before,
    "count_now": count_now,
    "count_before": count_before,
}


def measured(way: str, folder: Path) -> dict[str, float]:
    """One way in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.scale_driver", "--way", way, "--folder", str(folder)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def compare(rows: int) -> dict[str, Any]:
    """Both figures, each beside the way of before; ratios first."""
    with tempfile.TemporaryDirectory() as name:
        few, many = Path(name) / "few", Path(name) / "many"
        write_run(few, rows // 4)
        write_run(many, rows)
        RunDir(str(many)).write_bytes(tokenizer_folder().encode(), "tokenizer.txt")
        speed = {way: measured(f"filters_{way}", many) for way in ("now", "before")}
        counts = {way: [measured(f"count_{way}", one) for one in (few, many)] for way in ("now", "before")}
    same = ("states", "tokens", "long", "short")
    assert [[one[key] for key in same] for one in counts["now"]] == [
        [one[key] for key in same] for one in counts["before"]
    ]
    growth = {way: (two["peak_bytes"] - one["peak_bytes"]) / (rows - rows // 4) for way, (one, two) in counts.items()}
    found = {
        "filters_ratio": round(speed["now"]["per_cpu_s"] / speed["before"]["per_cpu_s"], 2),
        "count_memory_ratio": round(growth["now"] / growth["before"], 3),
        "filters_traces_per_cpu_s": round(speed["now"]["per_cpu_s"]),
        "filters_traces_per_wall_s": round(speed["now"]["per_wall_s"]),
        "filters_before_traces_per_cpu_s": round(speed["before"]["per_cpu_s"]),
        "count_bytes_per_trace": round(growth["now"], 1),
        "count_before_bytes_per_trace": round(growth["before"], 1),
        "traces": rows,
    }
    print(f"{found['filters_ratio']:6.2f}  filters, traces per CPU second over those of before: {speed}")
    print(f"{found['count_memory_ratio']:6.3f}  memory of a trace while counting over that of before: {growth}")
    return found


def main() -> None:
    """Print the figures and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.way:
        print(json.dumps(compare(arguments.rows)))
        return
    found = WAYS[arguments.way](RunDir(str(arguments.folder)))
    print(json.dumps(found | {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
