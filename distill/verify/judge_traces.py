"""Has an LLM judge the rejected traces, and counts where it and the rules disagree. Part of stage 3."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from distill.config.verify import JudgeConfig, judge_name
from distill.core.run_dir import RunDir, pool_shards
from distill.core.schema import IndexRow, Prompt, Trace, Verdict
from distill.grading.extract import answer_part
from distill.models.api_key import endpoint_key
from distill.run.pools import Pool
from distill.verify.judge import Judge, Question
from distill.verify.regrade import shard_parts

REJECTED = (Verdict.INCORRECT, Verdict.NO_ANSWER)

Progress = Callable[[str, int, int], None]
"""Pool, traces judged so far, rejected traces in all."""


def judge_pools(
    run_dir: RunDir,
    pools: Sequence[Pool],
    prompts: Mapping[str, Prompt],
    index: Iterable[IndexRow],
    config: JudgeConfig,
    progress: Progress,
) -> dict[str, Any]:
    """Have the rejected traces judged that this judge has not judged yet; returns the counts for the manifest.

    Raises:
        InputError: the environment variable that the recipe names for the key is not set.
    """
    judge = Judge(config, endpoint_key(config.api_key_env, "verify.judge.api_key_env"))
    rejected = [row for row in index if row.verdict in REJECTED and row.finish_reason != "length"]
    details = {}
    for pool in pools:
        ids = {row.trace_id for row in rejected if row.pool == pool.teacher.name}
        judge_rejected(run_dir, pool, prompts, judge, ids, progress)
        details[pool.teacher.name] = judge_details(run_dir, pool, ids, judge_name(config))
    return {"name": judge_name(config), "pools": details}


def judge_rejected(
    run_dir: RunDir, pool: Pool, prompts: Mapping[str, Prompt], judge: Judge, rejected: Set[str], progress: Progress
) -> None:
    """Have a pool's rejected traces judged, those of the index alone; shards are rewritten in place, by rename."""
    done = 0
    for shard in run_dir.shards(*pool_shards(pool.folder)):
        if judge.is_given_up:
            return
        traces = [Trace(**row) for row in run_dir.read_table(*shard_parts(pool, shard), row_type=Trace).to_pylist()]
        indexed = [trace for trace in traces if trace.trace_id in rejected]
        asked = _questions(indexed, prompts, pool.teacher.reasoning_end, judge_name(judge.config))
        if asked:
            judged = _judged(traces, asked, judge)
            run_dir.write_rows(judged, Trace, *shard_parts(pool, shard))
            done += len(asked)
            progress(f"judging {pool.teacher.name}", done, len(rejected))


def _questions(
    traces: Iterable[Trace], prompts: Mapping[str, Prompt], reasoning_end: str, name: str
) -> dict[str, Question]:
    questions = {
        trace.trace_id: judge_question(trace, prompts.get(trace.prompt_id), reasoning_end)
        for trace in traces
        if needs_judging(trace, name)
    }
    return {trace: question for trace, question in questions.items() if question is not None}


def _judged(traces: Iterable[Trace], asked: Mapping[str, Question], judge: Judge) -> list[Trace]:
    found = dict(zip(asked, judge.judge_batch(list(asked.values())), strict=True))
    name = judge_name(judge.config)
    return [
        dataclasses.replace(
            trace, judge_verdict=found[trace.trace_id].verdict, judge=name, judge_detail=found[trace.trace_id].detail
        )
        if trace.trace_id in found
        else trace
        for trace in traces
    ]


def needs_judging(trace: Trace, judge: str) -> bool:
    """Whether the rules reject the trace and this judge has not judged it. A truncated one has no answer to judge."""
    is_rejected = trace.verdict in REJECTED and trace.finish_reason != "length"
    return is_rejected and not (trace.judge == judge and trace.judge_verdict)


def judge_question(trace: Trace, prompt: Prompt | None, reasoning_end: str) -> Question | None:
    """The question about a trace; None where there is nothing to compare, for lack of a reference or an answer part."""
    part = answer_part(trace.completion, reasoning_end)
    if prompt is None or not prompt.reference.strip() or part is None or not part.strip():
        return None
    return Question(prompt.problem, prompt.reference, part.strip())


def judge_details(run_dir: RunDir, pool: Pool, rejected: set[str], judge: str) -> dict[str, Any]:
    """Where the judge and the rules disagree, over a pool's rejected traces that were not truncated.

    rejected = judged + not_asked (no reference, no answer part, or the judge was given up) + the counts of all reasons
    under `no_judgement`.
    """
    columns = ("trace_id", "judge_verdict", "judge", "judge_detail")
    table = run_dir.read_table(*pool_shards(pool.folder), row_type=Trace, columns=columns)
    rows = {row["trace_id"]: row for row in table.to_pylist() if row["trace_id"] in rejected}.values()
    asked = [row for row in rows if row["judge"] == judge]
    verdicts = Counter(row["judge_verdict"] for row in asked if row["judge_verdict"])
    return {
        "rejected": len(rows),
        "judged": verdicts.total(),
        "agrees": verdicts.total() - verdicts[Verdict.CORRECT],
        "says_correct": verdicts[Verdict.CORRECT],
        "no_judgement": dict(
            Counter(row["judge_detail"].partition(":")[0] for row in asked if not row["judge_verdict"])
        ),
        "not_asked": len(rows) - len(asked),
    }
