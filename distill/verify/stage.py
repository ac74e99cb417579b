"""Stage 3, verify: the index of graded traces.

The generate stage graded them already. Here they are counted, and graded again where the verifier has changed since or
could not decide (ERROR). A language model can judge the rejected ones.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from distill.config.verify import JudgeConfig
from distill.core.manifest import Manifest
from distill.core.progress_bars import bars
from distill.core.run_dir import ROW_GROUP_ROWS, VERDICTS, RunDir, StageName
from distill.core.schema import Prompt, Verdict
from distill.generate.traces import INDEX_COLUMNS, SCHEMA, index_rows, read_traces
from distill.run.context import RunContext, read_prompt_ids, read_prompts
from distill.run.pools import Pool
from distill.verify.judge_traces import judge_pools
from distill.verify.regrade import pool_details, regrade


def verify_stage(run: RunContext) -> Manifest:
    """Index the traces of the current prompts, after grading stale ones again."""
    recipe, run_dir, console = run.recipe, run.run_dir, run.console
    ids, prompts = read_prompt_ids(run_dir), cache(lambda: read_prompts(run_dir))
    num_regraded, details, verdicts = 0, {}, Counter[str]()
    with run_dir.table_writer(SCHEMA, *VERDICTS) as writer:
        for pool in run.pools:
            num_regraded += regrade(run_dir, pool, prompts, recipe.verify)
            found = write_index(run_dir, pool, ids, writer)
            correct = f"{found['correct']} of {found['traces']} traces correct"
            console.print(f"  {pool.name}: {correct}, {found['prompts_solved']} of {len(ids)} prompts solved")
            verdicts.update(found["verdicts"])
            details[pool.name] = found
    rejected = (Verdict.INCORRECT, Verdict.NO_ANSWER, Verdict.ERROR)
    judge = recipe.verify.judge
    judged = judge_index(judge, run.pools, prompts(), run_dir, console) if judge else {}
    return Manifest(
        stage=StageName.VERIFY,
        key="",
        rows_in=verdicts.total(),
        rows_out=verdicts.get(Verdict.CORRECT, 0),
        drops={verdict.value.lower(): verdicts[verdict] for verdict in rejected if verdict in verdicts},
        details={"pools": details, "graded_again": num_regraded, **judged},
    )


def write_index(run_dir: RunDir, pool: Pool, prompt_ids: pa.ChunkedArray, writer: pq.ParquetWriter) -> dict[str, Any]:
    """Write the index of a pool's traces; returns their counts. One pool is in memory at a time."""
    traces = read_traces(run_dir, pool, prompt_ids, pool.teacher.num_samples)
    for table in traces.tables():
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return pool_details(traces)


def judge_index(
    config: JudgeConfig,
    pools: Sequence[Pool],
    prompts: Mapping[str, Prompt],
    run_dir: RunDir,
    console: Console,
) -> dict[str, Any]:
    """The judge's counts on the rejected traces, beside the verifier's and never part of them."""
    index = index_rows(run_dir.column_tables(INDEX_COLUMNS, *VERDICTS))
    with bars(console) as shown:
        judged = judge_pools(run_dir, pools, prompts, index, config, progress=shown.update)
    for name, counts in judged["pools"].items():
        console.print(f"  judge on {name}: {counts}", markup=False)
    return {"judge": judged}
