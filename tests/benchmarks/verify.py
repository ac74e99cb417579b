"""Ours beside Math-Verify alone, on the same completions in one run: answers per second per core, and who is right.

    python -m tests.benchmarks.verify [--data DIR] [--sets gsm8k,math,cases,own] [--show]

Seconds are CPU seconds, since the machine may be shared. Ours is `GraderPool(num_workers=1)`: those of the caller and
of the worker together, with the start-up (imports, one fork) left out; Math-Verify is `parse` and `verify` with their
defaults, imported beforehand. Only finished completions are timed: Math-Verify searches an unfinished one for formulas
until its own time limits end it, which says little about answers. Rows that take it over a second are left out of its
time (and stay in ours), so that a few runaways do not make the ratio.
The last line is a JSON object; `ratio_vs_math_verify` is the smaller of the two sets' ratios. Without the data folder
it says so and ends with 0.
"""

import argparse
import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distill.core.schema import Verdict
from distill.grading import VERIFIER_VERSION, Grade, GradeRequest, GraderPool
from tests.fixtures.paths import CASES

DEFAULT_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
GRADING_CASES = CASES / "grading.jsonl"
SLOW_S = 1.0
LONG_MODEL = "Sky-T1-math-correct-5K-27B"


class Labelled(NamedTuple):
    """A row, the class it is counted in, what Math-Verify is given as gold, and whether it is right."""

    group: str
    request: GradeRequest
    gold: str
    is_correct: bool


class Run(NamedTuple):
    """Accepted or not per row, and the CPU seconds that the timed rows took."""

    accepted: list[bool]
    seconds: float
    slow_seconds: float = 0.0
    """Of `seconds`, those of rows that took over `SLOW_S` each (Math-Verify only)."""
    num_slow: int = 0


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """A JSONL file."""
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file)


def gsm8k(data: Path) -> list[Labelled]:
    """Real solutions of four models with recorded verdicts."""
    golds = [row["answer"].rpartition("####")[2].strip() for row in rows_of(data / "gsm8k" / "test.jsonl")]
    labelled = []
    for row in rows_of(data / "checker" / "gsm8k_model_solutions.jsonl"):
        gold = golds[row["test_idx"]]
        request = GradeRequest(row["solution"], gold, "number")
        labelled.append(Labelled(row["model"], request, gold, row["is_correct"]))
    return labelled


def math_traces(data: Path) -> list[Labelled]:
    """Real traces of five models on MATH-500; a long trace that never ended was cut, and so is never right."""
    golds = [row["answer"] for row in rows_of(data / "math" / "math500.jsonl")]
    labelled = []
    for row in rows_of(data / "traces" / "math500_five_models.jsonl"):
        is_long = row["model"] == LONG_MODEL
        is_cut = row["truncated"] or (is_long and "<|end_of_solution|>" not in row["response"])
        end = "<|end_of_thought|>" if is_long else ""
        gold = golds[row["idx"]]  # the traces' own copy of it has lost signs and row breaks
        request = GradeRequest(
            row["response"],
            gold,
            "math",
            finish_reason="length" if is_cut else "stop",
            reasoning_end=end,
            must_reason=is_long,
        )
        group = row["model"] + (", unfinished" if is_cut else "")
        labelled.append(Labelled(group, request, f"${gold}$", row["correct"] and not is_cut))
    return labelled


def checker_cases(data: Path) -> list[Labelled]:
    """Math-Verify's own suite, where it has an expectation for its default options."""
    labelled = []
    for row in rows_of(data / "checker" / "math_verify_cases.jsonl"):
        if "expected" in row:
            request = GradeRequest(row["pred"], row["gold"], "math", reasoning_end="")
            labelled.append(Labelled(row["test"], request, row["gold"], bool(row["expected"])))
    return labelled


def own_cases(data: Path) -> list[Labelled]:
    """The project's own cases, which ours is tested to agree with: what Math-Verify alone would make of them."""
    labelled = []
    for row in rows_of(GRADING_CASES):
        request = GradeRequest(
            row["completion"],
            row["reference"],
            row["answer_kind"],
            finish_reason=row["finish_reason"],
            language=row.get("language", ""),
        )
        labelled.append(Labelled(row["answer_kind"], request, f"${row['reference']}$", row["expected"] == "CORRECT"))
    return labelled


SETS: dict[str, Callable[[Path], list[Labelled]]] = {
    "gsm8k": gsm8k,
    "math": math_traces,
    "cases": checker_cases,
    "own": own_cases,
}


def run_math_verify(rows: Sequence[Labelled]) -> Run:
    """Math-Verify alone, as a user would call it."""
    from math_verify import parse, verify

    accepted, seconds = [], []
    for row in rows:
        started = time.process_time()
        accepted.append(bool(verify(parse(row.gold), parse(row.request.completion))))
        if is_timed(row):
            seconds.append(time.process_time() - started)
    slow = [value for value in seconds if value > SLOW_S]
    return Run(accepted, sum(seconds), sum(slow), len(slow))


def is_timed(row: Labelled) -> bool:
    """Whether the completion is finished."""
    return row.request.finish_reason == "stop"


def run_ours(pool: GraderPool, rows: Sequence[Labelled]) -> tuple[Run, list[Grade]]:
    """Ours, in batches of the size that a pipeline uses; the timed rows first, so that no cache has seen them."""
    grades: dict[int, Grade] = {}
    seconds = 0.0
    for is_measured in (True, False):
        wanted = [index for index, row in enumerate(rows) if is_timed(row) is is_measured]
        started = time.process_time() + pool.worker_cpu_s()
        for start in range(0, len(wanted), 256):
            batch = wanted[start : start + 256]
            grades |= zip(batch, pool.grade_batch([rows[index].request for index in batch]), strict=True)
        seconds += (time.process_time() + pool.worker_cpu_s() - started) if is_measured else 0.0
    ordered = [grades[index] for index in range(len(rows))]
    return Run([grade.verdict == Verdict.CORRECT for grade in ordered], seconds), ordered


def tally(rows: Sequence[Labelled], accepted: Sequence[bool]) -> dict[str, Counter[str]]:
    """Agreement, false accepts and false rejects, per class and in all."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row, is_accepted in zip(rows, accepted, strict=True):
        outcome = "agree" if is_accepted == row.is_correct else "false_accept" if is_accepted else "false_reject"
        for group in (row.group, "all"):
            counts[group].update({outcome: 1, "rows": 1})
    return counts


def print_table(rows: Sequence[Labelled], ours: Run, theirs: Run) -> None:
    """One line per class."""
    left, right = tally(rows, ours.accepted), tally(rows, theirs.accepted)
    print(f"  {'class':48s}{'rows':>6s} | {'agree':>7s}{'f.acc':>6s}{'f.rej':>6s} | Math-Verify: agree f.acc f.rej")
    for group in sorted(left, key=lambda name: (name == "all", name)):
        a, b = left[group], right[group]
        print(
            f"  {group:48s}{a['rows']:6d} | {a['agree']:7d}{a['false_accept']:6d}{a['false_reject']:6d} | "
            f"{b['agree']:18d}{b['false_accept']:6d}{b['false_reject']:6d}"
        )


def measure(name: str, rows: Sequence[Labelled], pool: GraderPool, show: bool) -> dict[str, float]:
    """Both on one set, printed; the numbers of the JSON line."""
    ours, grades = run_ours(pool, rows)
    theirs = run_math_verify(rows)
    num_timed = sum(map(is_timed, rows))
    our_rate = num_timed / ours.seconds
    rate = (num_timed - theirs.num_slow) / (theirs.seconds - theirs.slow_seconds)
    ratio, ratio_all = our_rate / rate, theirs.seconds / ours.seconds
    print(
        f"\n{name}: {ratio:.1f} x Math-Verify ({our_rate:,.0f} answers/s beside {rate:,.0f}; {num_timed} finished rows",
        end="",
    )
    print(f"; {ratio_all:.1f} x with the {theirs.num_slow} rows that take Math-Verify over {SLOW_S:g} s each)")
    print_table(rows, ours, theirs)
    print("  rules:", dict(Counter(f"{grade.verdict} {grade.rule}" for grade in grades).most_common(14)))
    if show:
        print_disagreements(rows, grades, theirs)
    right = [accepted == row.is_correct for row, accepted in zip(rows, ours.accepted, strict=True)]
    right_theirs = [accepted == row.is_correct for row, accepted in zip(rows, theirs.accepted, strict=True)]
    return {
        f"{name}_ratio": round(ratio, 2),
        f"{name}_ratio_with_slow_rows": round(ratio_all, 2),
        f"{name}_answers_per_s": round(our_rate),
        f"{name}_math_verify_answers_per_s": round(rate),
        f"{name}_accuracy": round(sum(right) / len(rows), 5),
        f"{name}_math_verify_accuracy": round(sum(right_theirs) / len(rows), 5),
        f"{name}_seconds": round(ours.seconds, 3),
        f"{name}_math_verify_seconds": round(theirs.seconds, 3),
    }


def print_disagreements(rows: Sequence[Labelled], grades: Sequence[Grade], theirs: Run) -> None:
    """Every row on which ours, Math-Verify and the label are not of one mind."""
    for row, grade, accepted in zip(rows, grades, theirs.accepted, strict=True):
        is_accepted = grade.verdict == Verdict.CORRECT
        if not is_accepted == accepted == row.is_correct:
            tail = row.request.completion[-120:]
            print(
                f"  label={row.is_correct!s:5} ours={is_accepted!s:5} mv={accepted!s:5} {row.group[:24]} {grade.rule}"
            )
            print(f"      gold={row.request.reference[:150]!r} extracted={grade.extracted[:150]!r} tail={tail!r}")


def main() -> None:
    """Runs every set and prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder with checker/, gsm8k/ and traces/")
    parser.add_argument("--show", action="store_true", help="print every row on which somebody disagrees")
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated subset")
    options = parser.parse_args()
    if not (options.data / "checker").is_dir():
        print(f"skipped: no labelled data under {options.data} (pass --data DIR; see its README for the files)")
        print(json.dumps({"skipped": True}))
        return
    logging.disable(logging.WARNING)  # Math-Verify logs each of its timeouts
    run_math_verify([Labelled("", GradeRequest("$x$", "x", "math"), "$x$", True)])
    result: dict[str, object] = {}
    print(VERIFIER_VERSION)
    with GraderPool(num_workers=1) as pool:
        pool.grade_batch([GradeRequest("\\boxed{1+x}", "x+1-0", "math")])
        for name in options.sets.split(","):
            result |= measure(name, SETS[name](options.data), pool, options.show)
    ratios = [float(str(result[f"{name}_ratio"])) for name in ("gsm8k", "math") if f"{name}_ratio" in result]
    ratio = min(ratios, default=None)
    print(json.dumps({"ratio_vs_math_verify": ratio, **result}))


if __name__ == "__main__":
    main()
