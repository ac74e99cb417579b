"""Grades stored traces again whose verdict is another verifier's, another reference's or ERROR, and counts a pool's
verdicts."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distill.config.verify import VerifyConfig
from distill.core.run_dir import PROMPTS, Parts, RunDir, pool_shards
from distill.core.schema import Prompt, Trace, Verdict, arrow_schema
from distill.core.verifier_version import VERIFIER_VERSION, verifier_version
from distill.generate.edits import graded_text
from distill.generate.pool_index import identity_bytes
from distill.generate.traces import INDEX_COLUMNS, PoolTraces, positions
from distill.grading import GraderPool, grade_request, reference_identity
from distill.run.pools import Pool

STATE_COLUMNS = ("prompt_id", "verifier", "verdict", "graded_against")
REFERENCE_COLUMNS = ("reference", "answer_kind", "entry", "language")


class References(NamedTuple):
    """What the prompts are graded against, as columns of 16 bytes each."""

    prompt_ids: NDArray[np.bytes_]
    """Sorted."""
    identities: NDArray[np.bytes_]
    """`reference_identity` of each."""


class _Reference(NamedTuple):
    reference: str
    answer_kind: str
    entry: str
    language: str


def read_references(run_dir: RunDir) -> References:
    """What the prompts of a run are graded against; their problems are not read."""
    ids: list[NDArray[np.bytes_]] = []
    found: list[str] = []
    for table in run_dir.column_tables(("prompt_id", *REFERENCE_COLUMNS), *PROMPTS, row_type=Prompt):
        ids.append(identity_bytes(table.column("prompt_id")))
        columns = (table.column(name).to_pylist() for name in REFERENCE_COLUMNS)
        found += [reference_identity(_Reference(*one)) for one in zip(*columns, strict=True)]
    prompt_ids = np.concatenate(ids) if ids else np.empty(0, "S16")
    order = np.argsort(prompt_ids)
    return References(prompt_ids[order], identity_bytes(pa.array(found, pa.string()))[order])


def regrade(
    run_dir: RunDir,
    pool: Pool,
    references: References,
    prompts: Callable[[], Mapping[str, Prompt]],
    verify: VerifyConfig,
) -> int:
    """Grade a pool's stale traces again; shards are rewritten in place, by rename.

    Args:
        run_dir: of the run.
        pool: whose traces.
        references: of the prompts.
        prompts: reads the prompts by identity; called only if a trace is stale.
        verify: limits of the verifier.

    Returns:
        The number of traces that were graded again.
    """
    count = 0
    for shard in run_dir.shards(*pool_shards(pool.folder)):
        state = run_dir.read_table(*shard_parts(pool, shard), row_type=Trace, columns=STATE_COLUMNS)
        if not _may_be_stale(state, references):
            continue
        traces = [Trace(**row) for row in run_dir.read_table(*shard_parts(pool, shard), row_type=Trace).to_pylist()]
        known = prompts()
        stale = [trace for trace in traces if trace.prompt_id in known and needs_grading(trace, known[trace.prompt_id])]
        if stale:
            graded = {trace.trace_id: trace for trace in _grade(stale, pool, known, verify)}
            renewed = [graded.get(trace.trace_id, trace) for trace in traces]
            run_dir.write_rows(renewed, Trace, *shard_parts(pool, shard))
            count += len(stale)
    return count


def _may_be_stale(state: pa.Table, references: References) -> bool:
    """Whether a shard may hold a trace that needs grading, by its `STATE_COLUMNS`, without its texts. A kind of answer
    with a version of its own always may."""
    is_stale = pc.or_(
        pc.not_equal(state.column("verifier"), VERIFIER_VERSION), pc.equal(state.column("verdict"), Verdict.ERROR.value)
    )
    if pc.any(is_stale).as_py():
        return True
    at = positions(references.prompt_ids, identity_bytes(state.column("prompt_id")))
    is_known, graded = at >= 0, identity_bytes(state.column("graded_against"))
    return bool((references.identities[at[is_known]] != graded[is_known]).any())


def shard_parts(pool: Pool, shard: str) -> Parts:
    """A shard's path below the run directory."""
    return pool_shards(pool.folder, shard.rsplit("/", 1)[1])


def needs_grading(trace: Trace, prompt: Prompt) -> bool:
    """Whether a stored verdict is another verifier's, was found against another reference, or is ERROR."""
    is_older = trace.verifier != verifier_version([prompt.answer_kind])
    return is_older or trace.graded_against != reference_identity(prompt) or trace.verdict == Verdict.ERROR


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
            against = reference_identity(prompts[trace.prompt_id])
            is_other = trace.graded_against not in ("", against)
            yield dataclasses.replace(
                _unjudged(trace) if is_other else trace,
                verdict=grade.verdict,
                extracted=grade.extracted,
                rule=grade.rule,
                detail=grade.detail,
                verifier=verifier_version([prompts[trace.prompt_id].answer_kind]),
                graded_against=against,
            )


def _unjudged(trace: Trace) -> Trace:
    """The trace without a judgement: the judge compared it with another reference."""
    return dataclasses.replace(trace, judge_verdict="", judge="", judge_detail="")


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
