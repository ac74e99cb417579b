"""What the cleaning of prompts takes from MATH and GSM8K train for every benchmark at hand: counts, and drops to read.

    python -m tests.benchmarks.clean [--data DIR] [--show N]

One process, no Ray. `--show N` prints N drops of each pair, drawn by a fixed lot, beside the benchmark's problem. The
last line is a JSON object of the counts. Without the data folder it says so and ends with 0.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from distill.config.prompts import PromptsConfig
from distill.core.schema import Dropped, Prompt, prompt_id
from distill.prompts import clean as cleaning
from distill.prompts.references import final_value
from tests.benchmarks.verify import DEFAULT_DATA, rows_of


class Set(NamedTuple):
    """A file and its columns; the columns of a problem are joined."""

    path: str
    problem: tuple[str, ...]
    reference: str


TRAINING = {
    "math": Set("math/train.jsonl", ("problem",), "answer"),
    "gsm8k": Set("gsm8k/train.jsonl", ("question",), "answer"),
}
BENCHMARKS = {
    "math500": Set("math/math500.jsonl", ("problem",), "answer"),
    "math_test": Set("math/test.jsonl", ("problem",), "solution"),
    "gsm8k_test": Set("gsm8k/test.jsonl", ("question",), "answer"),
    "aime24": Set("benchmarks/aime24.jsonl", ("problem",), "answer"),
    "amc23": Set("benchmarks/amc23.jsonl", ("problem",), "answer"),
    "olympiadbench": Set("benchmarks/olympiadbench_en_text.jsonl", ("question",), "final_answer"),
    "svamp": Set("benchmarks/svamp.jsonl", ("Body", "Question"), "Answer"),
}


def load(data: Path, source: Set) -> dict[str, Prompt]:
    """identity -> prompt."""
    prompts = (_prompt(row, source) for row in rows_of(data / source.path))
    return {prompt.prompt_id: prompt for prompt in prompts}


def _prompt(row: dict[str, Any], source: Set) -> Prompt:
    problem = " ".join(str(row[name]).strip() for name in source.problem)
    reference = final_value(str(row[source.reference]))
    return Prompt(prompt_id(problem), problem, reference, "math", source.path, "", "", "")


def clean(training: dict[str, Prompt], benchmark: dict[str, Prompt]) -> list[Dropped]:
    """Drops of the defaults, after letter for letter copies are out."""
    config = PromptsConfig.model_validate({"sources": [{"kind": "file", "path": "unused"}]})
    rest = [prompt for identity, prompt in training.items() if identity not in benchmark]
    return cleaning.clean_prompts(rest, {"benchmark": [*benchmark.values()]}, config, list).drops


def lines(drops: list[Dropped], benchmark: dict[str, Prompt], show: int) -> Iterator[str]:
    """Some of the contaminated prompts, each beside the benchmark's problem."""
    leaks = [drop for drop in drops if drop.reason != "near duplicate"]
    for drop in random.Random(0).sample(leaks, min(show, len(leaks))):
        yield f"  prompt:    {json.loads(drop.row)['problem']!r}"
        yield f"  benchmark: {benchmark[drop.detail.split()[1].rstrip(':')].problem!r}"


def main() -> None:
    """Every training set against every benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--show", type=int, default=0)
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"{args.data}: no data, nothing is measured")
        return
    cleaning.RAY_FROM = 1 << 30
    counts: dict[str, dict[str, int]] = {}
    for name, source in TRAINING.items():
        training = load(args.data, source)
        for other, its in BENCHMARKS.items():
            benchmark = load(args.data, its)
            drops = clean(training, benchmark)
            reasons = Counter(drop.reason for drop in drops)
            counts[f"{name} against {other}"] = {"copies": len(training.keys() & benchmark.keys()), **reasons}
            print(f"{name} against {other}: {counts[f'{name} against {other}']}", flush=True)
            print("\n".join(lines(drops, benchmark, args.show)), end="\n" if args.show else "")
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
