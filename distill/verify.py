"""Stage 3: the index of verified traces. Generation graded them as they came; here they are counted, and graded again
where the verifier has changed since or could not tell (ERROR)."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill.config import VerifyConfig
from distill.grading import VERIFIER_VERSION, GraderPool, grade_request
from distill.run_dir import RunDir
from distill.schema import IndexRow, Prompt, Trace, Verdict, arrow_schema
from distill.teachers.pools import Pool
from distill.teachers.shards import STAGE as GENERATE

INDEX_COLUMNS = tuple(field.name for field in dataclasses.fields(IndexRow))


def read_index_table(run_dir: RunDir, pool: Pool) -> pa.Table:
    """A pool's traces without their texts, each once, in the order of their identity. Columns, not rows: 120 bytes a
    trace where a row of its own takes 450, and a pool may have millions."""
    schema = pa.schema([arrow_schema(IndexRow).field(name) for name in INDEX_COLUMNS])
    found = run_dir.read_columns(INDEX_COLUMNS, GENERATE, pool.folder)
    table = schema.empty_table() if found is None else found.select(schema.names).cast(schema)
    table = table.take(pc.sort_indices(table, [("trace_id", "ascending")]))
    if table.num_rows < 2:
        return table
    ids = table.column("trace_id")
    is_last = pc.not_equal(ids.slice(0, len(ids) - 1), ids.slice(1)).combine_chunks()
    return _where(table, pa.concat_arrays([is_last, pa.array([True])]))


def read_index(run_dir: RunDir, pool: Pool) -> list[IndexRow]:
    """The same as rows, for readers of a few."""
    return index_rows(read_index_table(run_dir, pool))


def index_rows(table: pa.Table) -> list[IndexRow]:
    """Rows of an index table."""
    return [IndexRow(**row) for row in table.to_pylist()]


def of_prompts(table: pa.Table, prompt_ids: pa.ChunkedArray, num_samples: int | None = None) -> pa.Table:
    """The traces of some prompts; `num_samples`: no more of each than these first samples."""
    wanted = pc.is_in(table.column("prompt_id"), value_set=prompt_ids.combine_chunks())
    if num_samples is not None:
        wanted = pc.and_(wanted, pc.less(table.column("sample_index"), num_samples))
    return _where(table, wanted)


def _where(table: pa.Table, mask: Any) -> pa.Table:
    """The rows of a mask. All of them, as is the rule, are the table itself: a copy takes as much memory again."""
    return table if pc.all(mask).as_py() else table.filter(mask)


def regrade(run_dir: RunDir, pool: Pool, prompts: Callable[[], Mapping[str, Prompt]], verify: VerifyConfig) -> int:
    """Grade again what another verifier graded or this one could not; shards are rewritten in place by rename.

    `prompts` is called only if there is such a trace.

    Returns:
        How many traces were graded again.
    """
    count = 0
    for shard in filter(partial(_may_be_stale, run_dir), run_dir.shards(GENERATE, pool.folder)):
        traces = [Trace(**row) for row in run_dir.read_table(*shard_parts(pool, shard), row_type=Trace).to_pylist()]
        known = prompts()
        stale = [trace for trace in traces if needs_grading(trace) and trace.prompt_id in known]
        if stale:
            graded = {trace.trace_id: trace for trace in _grade(stale, pool, known, verify)}
            renewed = [graded.get(trace.trace_id, trace) for trace in traces]
            run_dir.write_rows(renewed, Trace, *shard_parts(pool, shard))
            count += len(stale)
    return count


def _may_be_stale(run_dir: RunDir, shard: str) -> bool:
    """Whether a shard holds a trace that needs grading; its texts are not read for that."""
    table = pq.read_table(shard, filesystem=run_dir.fs, columns=["verifier", "verdict"])
    is_stale = pc.or_(
        pc.not_equal(table.column("verifier"), VERIFIER_VERSION), pc.equal(table.column("verdict"), Verdict.ERROR.value)
    )
    return bool(pc.any(is_stale).as_py())


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


def pool_details(table: pa.Table, num_prompts: int) -> dict[str, Any]:
    """A pool's counts for the manifest: verdicts, solved prompts, lengths in tokens."""
    correct = table.filter(pc.equal(table.column("verdict"), Verdict.CORRECT.value))
    return {
        "traces": table.num_rows,
        "correct": correct.num_rows,
        "verdicts": counted(table.column("verdict")),
        "prompts": num_prompts,
        "prompts_solved": pc.count_distinct(correct.column("prompt_id")).as_py(),
        "mean_tokens": pc.mean(correct.column("completion_tokens")).as_py() or 0.0,
        "completion_tokens": pc.sum(table.column("completion_tokens")).as_py() or 0,
        "truncated": pc.sum(pc.equal(table.column("finish_reason"), "length")).as_py() or 0,
    }


def counted(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs."""
    return {row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()}


assert set(INDEX_COLUMNS) <= set(arrow_schema(Trace).names)
