"""Grades stored traces again whose verdict is another verifier's or ERROR, and counts a pool's verdicts."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill.config.verify import VerifyConfig
from distill.core.run_dir import Parts, RunDir, pool_shards
from distill.core.schema import Prompt, Trace, Verdict, arrow_schema
from distill.core.verifier_version import VERIFIER_VERSION, verifier_version
from distill.generate.edits import graded_text
from distill.generate.traces import INDEX_COLUMNS, PoolTraces
from distill.grading import GraderPool, grade_request
from distill.run.pools import Pool


def regrade(run_dir: RunDir, pool: Pool, prompts: Callable[[], Mapping[str, Prompt]], verify: VerifyConfig) -> int:
    """Grade a pool's stale traces again; shards are rewritten in place, by rename.

    Args:
        run_dir: of the run.
        pool: whose traces.
        prompts: reads the prompts by identity; called only if a trace is stale.
        verify: limits of the verifier.

    Returns:
        The number of traces that were graded again.
    """
    count = 0
    for shard in filter(partial(_may_be_stale, run_dir), run_dir.shards(*pool_shards(pool.folder))):
        traces = [Trace(**row) for row in run_dir.read_table(*shard_parts(pool, shard), row_type=Trace).to_pylist()]
        known = prompts()
        stale = [trace for trace in traces if trace.prompt_id in known and needs_grading(trace, known[trace.prompt_id])]
        if stale:
            graded = {trace.trace_id: trace for trace in _grade(stale, pool, known, verify)}
            renewed = [graded.get(trace.trace_id, trace) for trace in traces]
            run_dir.write_rows(renewed, Trace, *shard_parts(pool, shard))
            count += len(stale)
    return count


def _may_be_stale(run_dir: RunDir, shard: str) -> bool:
    """Whether a shard may hold a trace that needs grading, without reading its texts. A kind of answer with a version
    of its own always may."""
    table = pq.read_table(shard, filesystem=run_dir.fs, columns=["verifier", "verdict"])
    is_stale = pc.or_(
        pc.not_equal(table.column("verifier"), VERIFIER_VERSION), pc.equal(table.column("verdict"), Verdict.ERROR.value)
    )
    return bool(pc.any(is_stale).as_py())


def shard_parts(pool: Pool, shard: str) -> Parts:
    """A shard's path below the run directory."""
    return pool_shards(pool.folder, shard.rsplit("/", 1)[1])


def needs_grading(trace: Trace, prompt: Prompt) -> bool:
    """Whether a stored verdict is another verifier's, or ERROR."""
    return trace.verifier != verifier_version([prompt.answer_kind]) or trace.verdict == Verdict.ERROR


def _grade(traces: Sequence[Trace], pool: Pool, prompts: Mapping[str, Prompt], verify: VerifyConfig) -> Iterator[Trace]:
    delimiter = pool.teacher.reasoning_end
    requests = [
        grade_request(
            prompts[trace.prompt_id],
            graded_text(trace.completion, trace.given, delimiter),
            finish_reason=trace.finish_reason,
            reasoning_end=delimiter,
        )
        for trace in traces
    ]
    with GraderPool.from_config(verify) as graders:
        for trace, grade in zip(traces, graders.grade_batch(requests), strict=True):
            yield dataclasses.replace(
                trace,
                verdict=grade.verdict,
                extracted=grade.extracted,
                rule=grade.rule,
                detail=grade.detail,
                verifier=verifier_version([prompts[trace.prompt_id].answer_kind]),
            )


def pool_details(traces: PoolTraces) -> dict[str, Any]:
    """A pool's counts for the manifest: verdicts, solved prompts, lengths in tokens."""
    is_correct, tokens = traces.is_usable(), traces.columns["completion_tokens"]
    is_solved = np.zeros(len(traces.prompt_ids), dtype=np.bool_)
    is_solved[traces.columns["prompt_id"][is_correct]] = True
    num_correct = int(is_correct.sum())
    return {
        "traces": len(traces),
        "correct": num_correct,
        "verdicts": traces.count_words("verdict"),
        "prompts": len(traces.prompt_ids),
        "prompts_solved": int(is_solved.sum()),
        "mean_tokens": int(tokens[is_correct].sum(dtype=np.int64)) / max(1, num_correct),
        "completion_tokens": int(tokens.sum(dtype=np.int64)),
        "truncated": int(traces.is_word("finish_reason", "length").sum()),
    }


assert set(INDEX_COLUMNS) <= set(arrow_schema(Trace).names)
