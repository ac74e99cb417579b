"""Choosing a mix from 10^5, 10^6 and 10^7 traces of four teachers, beside the same mix in pandas and `datasets`.

    python -m tests.benchmarks.mix [--rows N ...] [--folder DIR]

Each size and each tool is a process of its own, so that its peak memory is its own. All read the same Parquet index
(identities, pools, verdicts, lengths; no texts) and choose the same kind of arm: correct and finished traces, one per
prompt and pool, prompts that all four pools have, 20 % of them from the first pool.

* ours: the stage's own path, `read_index` and filters, candidates, and six arms at once (one of each policy).
* pandas: read, filter, drop duplicates per prompt and pool, pivot, dropna, sample: one arm.
* datasets: `load_dataset`, filter, one data set per pool restricted to the common prompts, `interleave_datasets` with
  probabilities, as mixes are commonly written: one arm, whose counts are random and whose prompts repeat or fail to
  appear, since interleaving knows nothing of prompts.

`rows_per_s` is traces per second of the choice alone (candidates and all six arms); reading has its own figure.
The last line is a JSON object. Sizes beyond 10^6 are not asked of the other two.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

POOLS = ("a-long", "b-short", "c-large", "d-small")
SIZES = (100_000, 1_000_000, 10_000_000)
OTHERS_UP_TO = 1_000_000
SHARE = 0.2
CHUNK = 400_000


def write_index(path: Path, num_rows: int) -> None:
    """A synthetic index: two traces per prompt and pool, 70 % correct, 2 % cut, log-normal lengths, shuffled."""
    rng = np.random.default_rng(0)
    num_prompts = num_rows // (2 * len(POOLS))
    order = rng.permutation(num_prompts * 2 * len(POOLS))
    schema = pa.schema(
        [(name, pa.string()) for name in ("trace_id", "prompt_id", "pool", "style", "verdict", "finish_reason")]
        + [("completion_tokens", pa.int64())]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(order), CHUNK):
            writer.write_table(_chunk(order[start : start + CHUNK], rng, schema))


def _chunk(numbers: Any, rng: np.random.Generator, schema: pa.Schema) -> pa.Table:
    pools = numbers % len(POOLS)
    prompts, traces = numbers // (2 * len(POOLS)), numbers
    scale = np.array([7.2, 5.9, 6.4, 6.0])[pools]
    columns = {
        "trace_id": [f"{mixed(number, 1):016x}" for number in traces.tolist()],
        "prompt_id": [f"{mixed(number, 2):016x}" for number in prompts.tolist()],
        "pool": np.array(POOLS)[pools],
        "style": np.where(pools == 0, "long", "short"),
        "verdict": np.where(rng.random(len(numbers)) < 0.7, "CORRECT", "INCORRECT"),
        "finish_reason": np.where(rng.random(len(numbers)) < 0.02, "length", "stop"),
        "completion_tokens": np.exp(rng.normal(scale, 0.5)).astype(np.int64),
    }
    return pa.table([pa.array(columns[name]) for name in schema.names], schema=schema)


def mixed(number: int, salt: int) -> int:
    """A 64-bit identity of a number."""
    return (number * 0x9E3779B97F4A7C15 + salt * 0xBF58476D1CE4E5B9) % 2**64


def run_ours(path: Path) -> dict[str, float]:
    """Read, then choose six arms."""
    from distill.config.mix import (
        BothMix,
        CurriculumMix,
        HardGetsLongMix,
        MixConfig,
        SingleMix,
        WeightedMix,
        WeightedTokensMix,
    )
    from distill.core.run_dir import RunDir
    from distill.mix.accounting import mix_details
    from distill.mix.candidates import build_candidates
    from distill.mix.filters import USABLE, reasons_without_text
    from distill.mix.policies import choose
    from distill.mix.trace_index import read_index

    weights = {POOLS[0]: SHARE, POOLS[1]: 1 - SHARE}
    mixes: list[MixConfig] = [
        SingleMix(name="single", pool=POOLS[1]),
        WeightedMix(name="weighted", weights=weights),
        WeightedTokensMix(name="tokens", weights=weights),
        HardGetsLongMix(name="hard", weights=weights, order=POOLS[:2]),
        CurriculumMix(name="curriculum", weights=weights, order=POOLS[1::-1]),
        BothMix(name="both", pools=POOLS),
    ]
    started = time.perf_counter()
    index = read_index(RunDir(str(path.parent)), path.name)
    read = time.perf_counter()
    candidates = build_candidates(index, reasons_without_text(index, POOLS) == USABLE, POOLS, 0)
    chosen = choose(mixes, candidates, 0)
    done = time.perf_counter()
    details = mix_details(mixes[1], chosen["weighted"], candidates, index)
    assert abs(details["realised_rows"][POOLS[0]] * len(candidates) - SHARE * len(candidates)) < 1
    return {"rows": len(index), "prompts": len(candidates), "read_s": read - started, "choose_s": done - read}


def run_pandas(path: Path) -> dict[str, float]:
    """The same choice of one arm, with pandas."""
    import pandas as pd

    started = time.perf_counter()
    frame = pd.read_parquet(path)
    read = time.perf_counter()
    usable = frame[(frame.verdict == "CORRECT") & (frame.finish_reason != "length")].sample(frac=1, random_state=0)
    first = usable.drop_duplicates(["prompt_id", "pool"])
    table = first.pivot(index="prompt_id", columns="pool", values="trace_id").dropna()
    long = table.sample(frac=SHARE, random_state=0).index
    arm = table[POOLS[1]].where(~table.index.isin(long), table[POOLS[0]])
    done = time.perf_counter()
    return {"rows": len(frame), "prompts": len(arm), "read_s": read - started, "choose_s": done - read}


def run_datasets(path: Path) -> dict[str, float]:
    """The same kind of mix with `datasets`: filter per pool, then interleave with probabilities."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    with TemporaryDirectory() as cache:
        started = time.perf_counter()
        rows = load_dataset("parquet", data_files=str(path), split="train", cache_dir=cache)
        read = time.perf_counter()
        found = interleaved(rows)
        done = time.perf_counter()
    return {"rows": len(rows), **found, "read_s": read - started, "choose_s": done - read}


def interleaved(rows: Any) -> dict[str, float]:
    """Common prompts, how many of them the interleaved arm teaches, and the share it realises."""
    from datasets import interleave_datasets

    good = rows.filter(_is_good, batched=True, input_columns=["verdict", "finish_reason"])
    options: dict[str, Any] = {"batched": True, "input_columns": ["pool", "prompt_id"]}
    solved = [set(good.filter(_of(pool, None), **options)["prompt_id"]) for pool in POOLS]
    common = set.intersection(*solved)
    pair = [good.filter(_of(pool, common), **options) for pool in POOLS[:2]]
    shares = [SHARE, 1 - SHARE]
    arm = interleave_datasets(pair, probabilities=shares, seed=0, stopping_strategy="first_exhausted")
    arm = arm.select(range(min(len(common), len(arm))))
    realised = sum(pool == POOLS[0] for pool in arm["pool"]) / len(arm)
    return {"prompts": len(common), "prompts_taught": len(set(arm["prompt_id"])), "realised": realised}


def _is_good(verdicts: list[str], reasons: list[str]) -> list[bool]:
    return [verdict == "CORRECT" and reason != "length" for verdict, reason in zip(verdicts, reasons, strict=True)]


def _of(pool: str, wanted: set[str] | None) -> Callable[[list[str], list[str]], list[bool]]:
    def keep(pools: list[str], prompts: list[str]) -> list[bool]:
        pairs = zip(pools, prompts, strict=True)
        return [one == pool and (wanted is None or prompt in wanted) for one, prompt in pairs]

    return keep


TOOLS = {"ours": run_ours, "pandas": run_pandas, "datasets": run_datasets}


def measure(tool: str, path: Path) -> dict[str, float]:
    """One tool in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.mix", "--tool", tool, "--index", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measurements(sizes: list[int], folder: Path) -> Iterator[dict[str, Any]]:
    """One row per size and tool, printed as it comes."""
    for size in sizes:
        path = folder / f"{size}.parquet"
        write_index(path, size)
        for tool in TOOLS if size <= OTHERS_UP_TO else ("ours",):
            row = {"tool": tool, "size": size, **measure(tool, path)}
            rate = row["rows"] / row["choose_s"]
            print(
                f"{tool:9} {size:>11,} traces  {row['prompts']:>9,.0f} common prompts  read {row['read_s']:7.2f} s"
                f"  choose {row['choose_s']:7.2f} s  {rate:>12,.0f} rows/s  peak {row['peak_gb']:.2f} GB",
                flush=True,
            )
            yield row
        path.unlink()


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Ratios first: ours beside the others at the largest size they were asked; then our own figures."""
    ours = {row["size"]: row for row in rows if row["tool"] == "ours"}
    result: dict[str, float] = {}
    for tool in ("pandas", "datasets"):
        theirs = [row for row in rows if row["tool"] == tool]
        if theirs:
            other = theirs[-1]
            mine = ours[other["size"]]
            result[f"times_faster_than_{tool}"] = round(other["choose_s"] / mine["choose_s"], 2)
            result[f"memory_of_{tool}"] = round(other["peak_gb"] / mine["peak_gb"], 2)
    small, large = min(ours), max(ours)
    result["rows_per_s"] = round(ours[large]["rows"] / ours[large]["choose_s"])
    if large >= SIZES[-1]:
        result["peak_gb_10m"] = ours[large]["peak_gb"]
    if large > small:
        result["growth_exponent"] = round(
            math.log(ours[large]["choose_s"] / ours[small]["choose_s"]) / math.log(large / small), 3
        )
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--folder", type=Path, help="where the indexes are written (default: a temporary folder)")
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--index", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tool:
        found = TOOLS[arguments.tool](arguments.index)
        found["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)
        print(json.dumps(found))
        return
    with TemporaryDirectory(dir=arguments.folder) as folder:
        print(json.dumps(summary(list(measurements(sorted(arguments.rows), Path(folder))))))


if __name__ == "__main__":
    main()
