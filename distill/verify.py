"""Stage 3: the index of verified traces. Generation graded them as they came; here they are counted, and graded again
where the verifier has changed since or could not tell (ERROR)."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from distill.config import VerifyConfig
from distill.grading import VERIFIER_VERSION, GraderPool, grade_request
from distill.run_dir import RunDir
from distill.schema import IndexRow, Prompt, Trace, Verdict, arrow_schema
from distill.teachers.pools import Pool
from distill.teachers.shards import STAGE as GENERATE

INDEX_COLUMNS = tuple(field.name for field in dataclasses.fields(IndexRow))


def read_index(run_dir: RunDir, pool: Pool) -> list[IndexRow]:
    """A pool's traces without their texts, each once, in the order of their identity."""
    rows: dict[str, IndexRow] = {}
    for shard in run_dir.shards(GENERATE, pool.folder):
        for row in pq.read_table(shard, filesystem=run_dir.fs, columns=list(INDEX_COLUMNS)).to_pylist():
            rows[row["trace_id"]] = IndexRow(**row)
    return [rows[name] for name in sorted(rows)]


def regrade(run_dir: RunDir, pool: Pool, prompts: Mapping[str, Prompt], verify: VerifyConfig) -> int:
    """Grade again what another verifier graded or this one could not; shards are rewritten in place by rename.

    Returns:
        How many traces were graded again.
    """
    count = 0
    for shard in run_dir.shards(GENERATE, pool.folder):
        traces = [Trace(**row) for row in run_dir.read_table(*shard_parts(pool, shard), row_type=Trace).to_pylist()]
        stale = [trace for trace in traces if needs_grading(trace) and trace.prompt_id in prompts]
        if stale:
            graded = {trace.trace_id: trace for trace in _grade(stale, pool, prompts, verify)}
            renewed = [graded.get(trace.trace_id, trace) for trace in traces]
            run_dir.write_rows(renewed, Trace, *shard_parts(pool, shard))
            count += len(stale)
    return count


def shard_parts(pool: Pool, shard: str) -> tuple[str, str, str]:
    """A shard's path in the terms of `RunDir`."""
    return GENERATE, pool.folder, shard.rsplit("/", 1)[1]


def needs_grading(trace: Trace) -> bool:
    """Whether a stored verdict is not the present verifier's word."""
    return trace.verifier != VERIFIER_VERSION or trace.verdict == Verdict.ERROR


def _grade(traces: Sequence[Trace], pool: Pool, prompts: Mapping[str, Prompt], verify: VerifyConfig) -> Iterator[Trace]:
    delimiter = pool.teacher.reasoning_end
    requests = [
        grade_request(
            prompts[trace.prompt_id], trace.completion, finish_reason=trace.finish_reason, reasoning_end=delimiter
        )
        for trace in traces
    ]
    with GraderPool.of(verify) as graders:
        for trace, grade in zip(traces, graders.grade_batch(requests), strict=True):
            yield dataclasses.replace(
                trace,
                verdict=grade.verdict,
                extracted=grade.extracted,
                rule=grade.rule,
                detail=grade.detail,
                verifier=VERIFIER_VERSION,
            )


def pool_details(rows: Iterable[IndexRow], num_prompts: int) -> dict[str, Any]:
    """A pool's counts for the manifest: verdicts, solved prompts, lengths in tokens."""
    listed = list(rows)
    correct = [row for row in listed if row.verdict == Verdict.CORRECT]
    tokens = [row.completion_tokens for row in correct]
    return {
        "traces": len(listed),
        "correct": len(correct),
        "verdicts": dict(Counter(row.verdict for row in listed)),
        "prompts": num_prompts,
        "prompts_solved": len({row.prompt_id for row in correct}),
        "mean_tokens": sum(tokens) / len(tokens) if tokens else 0.0,
        "completion_tokens": sum(row.completion_tokens for row in listed),
        "truncated": sum(row.finish_reason == "length" for row in listed),
    }


assert set(INDEX_COLUMNS) <= set(arrow_schema(Trace).names)
