"""A few problems with each arm's answer, and one training prompt with the trace of each pool.

Chosen by the hash in their id, before any answer is looked at, so that they are not cherry-picked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distill.config.recipe import Recipe
from distill.core.run_dir import PROMPTS, VERDICTS, RunDir, benchmark_scores
from distill.core.schema import IndexRow, Prompt, Score, Verdict
from distill.grading.references import reference_text
from distill.report.arms import Arm
from distill.report.data import Answer, Sample
from distill.report.formats import MISSING
from distill.report.pools import read_examples

NUM_PROBLEMS = 3
MAX_CHARS = 4000
ANSWER_COLUMNS = ("prompt_id", "sample_index", "completion", "verdict", "extracted", "completion_tokens")


def answer_samples(
    recipe: Recipe, run_dir: RunDir, arms: Sequence[Arm], problems: Mapping[str, Mapping[str, Prompt]]
) -> list[Sample]:
    """Problems of the first benchmark, answered by the first student's arms. `problems`: by benchmark and identity."""
    student, benchmark = recipe.students[0].name, recipe.evaluate.benchmarks[0]
    mine = [arm for arm in arms if (arm.student, arm.benchmark) == (student, benchmark)]
    if not mine:
        return []
    chosen = sorted(set.intersection(*(set(arm.runs[0].prompt_ids.tolist()) for arm in mine)))[:NUM_PROBLEMS]
    tables = {arm.label: _answers(run_dir, arm, chosen) for arm in mine}
    return [_answer_sample(benchmark, prompt, problems[benchmark].get(prompt), tables) for prompt in chosen]


def _answers(run_dir: RunDir, arm: Arm, prompt_ids: Sequence[str]) -> dict[str, Answer]:
    run = arm.runs[0]
    table = run_dir.read_table(*benchmark_scores(run.model, run.benchmark), row_type=Score, columns=ANSWER_COLUMNS)
    # Reversed, so that the first sample of a prompt overwrites the others.
    rows = sorted(_rows_of(table, prompt_ids), key=lambda row: -int(row["sample_index"]))
    return {row["prompt_id"]: _answer(run.model, row) for row in rows}


def _answer(label: str, row: Mapping[str, Any]) -> Answer:
    return Answer(
        label=label,
        verdict=row["verdict"],
        extracted=(row["extracted"] or "")[:200],
        tokens=row["completion_tokens"],
        completion=cut(row["completion"] or ""),
    )


def _answer_sample(
    benchmark: str, prompt_id: str, prompt: Prompt | None, tables: dict[str, dict[str, Answer]]
) -> Sample:
    return Sample(
        source=benchmark,
        problem=cut(prompt.problem) if prompt else f"(the text of problem {prompt_id} is not recorded)",
        reference=cut(reference_text(prompt.reference)) if prompt else MISSING,
        answers=tuple(table[prompt_id] for table in tables.values()),
    )


def trace_samples(recipe: Recipe, run_dir: RunDir) -> list[Sample]:
    """One training prompt with the trace of each pool that the students were trained on."""
    sources = _pool_sources(recipe, run_dir)
    common = set.intersection(*(prompts for _, prompts in sources.values())) if sources else set()
    if not common:
        return []
    chosen = min(common)
    found = [Prompt(**row) for row in _training_prompts(run_dir, [chosen]).to_pylist()]
    answers = [_trace_answer(run_dir, pool, mix, chosen) for pool, (mix, _) in sources.items()]
    return [
        Sample(
            source=found[0].source if found else MISSING,
            problem=cut(found[0].problem) if found else MISSING,
            reference=cut(reference_text(found[0].reference)) if found else MISSING,
            answers=tuple(answers),
        )
    ]


def _pool_sources(recipe: Recipe, run_dir: RunDir) -> dict[str, tuple[str, set[str]]]:
    """pool -> the mix that holds most of its traces, and their prompts."""
    found: dict[str, tuple[str, set[str]]] = {}
    for mix in recipe.mixes:
        table = read_examples(run_dir, mix.name, ("prompt_id", "pool"))
        for pool in table["pool"].unique().to_pylist():
            prompts = set(table.filter(pc.equal(table["pool"], pool))["prompt_id"].to_pylist())
            if len(prompts) > len(found.get(pool, ("", set()))[1]):
                found[pool] = (mix.name, prompts)
    return found


def _trace_answer(run_dir: RunDir, pool: str, mix: str, prompt_id: str) -> Answer:
    table = read_examples(run_dir, mix, ("trace_id", "prompt_id", "pool", "messages"))
    row = table.filter(pc.and_(pc.equal(table["prompt_id"], prompt_id), pc.equal(table["pool"], pool))).to_pylist()[0]
    tokens = _trace_tokens(run_dir, [row["trace_id"]]).get(row["trace_id"])
    return Answer(pool, Verdict.CORRECT.value, "", tokens, cut(row["messages"][-1]["content"]))


def _training_prompts(run_dir: RunDir, prompt_ids: Sequence[str]) -> pa.Table:
    table = run_dir.read_table(*PROMPTS, row_type=Prompt)
    return table.filter(pc.is_in(table["prompt_id"], pa.array(prompt_ids, pa.string())))


def _trace_tokens(run_dir: RunDir, trace_ids: Sequence[str]) -> dict[str, int]:
    columns = ("trace_id", "completion_tokens")
    table = run_dir.read_table(*VERDICTS, row_type=IndexRow, columns=columns)
    kept = table.filter(pc.is_in(table["trace_id"], pa.array(trace_ids, pa.string())))
    return dict(zip(kept["trace_id"].to_pylist(), kept["completion_tokens"].to_pylist(), strict=True))


def _rows_of(table: pa.Table, prompt_ids: Sequence[str]) -> list[dict[str, Any]]:
    return list(table.filter(pc.is_in(table["prompt_id"], pa.array(prompt_ids, pa.string()))).to_pylist())


def cut(text: str) -> str:
    """The text, or its first characters and how many there were."""
    return (
        text
        if len(text) <= MAX_CHARS
        else f"{text[:MAX_CHARS]}\n[... cut here; the whole text has {len(text):,} characters]"
    )
