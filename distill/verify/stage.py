"""Stage 3, verify: the index of graded traces.

The generate stage graded them already. Here they are counted, and graded again where the verifier or the reference has
changed since, or it could not decide (ERROR). A language model can judge the rejected ones.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from distill.config.teachers import read_pool
from distill.config.verify import JudgeConfig
from distill.core.manifest import Manifest
from distill.core.progress_bars import bars
from distill.core.run_dir import ROW_GROUP_ROWS, VERDICTS, RunDir, StageName
from distill.core.schema import IndexRow, Prompt, Verdict
from distill.generate.edits import KEPT
from distill.generate.pools import group_by_engine
from distill.generate.traces import EDIT_COLUMNS, INDEX_COLUMNS, SCHEMA, PoolTraces, index_rows, read_traces
from distill.run.context import RunContext, read_prompt_ids, read_prompts
from distill.run.pools import Pool
from distill.verify.edit_drops import Marked, changes, marked, outcomes, with_drops
from distill.verify.judge_traces import judge_pools
from distill.verify.regrade import pool_details, read_references, regrade


def verify_stage(run: RunContext) -> Manifest:
    """Index the traces of the current prompts, after grading stale ones again."""
    recipe, run_dir, console = run.recipe, run.run_dir, run.console
    ids, prompts = read_prompt_ids(run_dir), cache(lambda: read_prompts(run_dir))
    references = read_references(run_dir)
    num_regraded, details, read = 0, dict[str, dict[str, Any]](), dict[str, Marked]()
    sources = {read_pool(pool.teacher) for pool in run.pools}
    with run_dir.table_writer(SCHEMA, *VERDICTS) as writer:
        for pool in chain.from_iterable(group_by_engine(run.pools)):  # what is read comes first
            num_regraded += regrade(run_dir, pool, references, prompts, recipe.verify)
            found, traces = write_index(run_dir, pool, ids, writer, read)
            if pool.name in sources:
                read[pool.name] = marked(traces)
            del traces  # one pool is in memory at a time
            console.print(f"  {pool.name}: {pool_line(found)}", markup=False)
            details[pool.name] = found
    details = {pool.name: details[pool.name] for pool in run.pools}
    judge = recipe.verify.judge
    judged = judge_index(judge, run.pools, prompts(), run_dir, console) if judge else {}
    return Manifest(
        stage=StageName.VERIFY,
        key="",
        rows_in=sum(found["traces"] for found in details.values()),
        rows_out=sum(found["correct"] for found in details.values()),
        drops=rejected(details.values()),
        details={"pools": details, "graded_again": num_regraded, **judged},
    )


def write_index(
    run_dir: RunDir, pool: Pool, prompt_ids: pa.ChunkedArray, writer: pq.ParquetWriter, read: Mapping[str, Marked]
) -> tuple[dict[str, Any], PoolTraces]:
    """Write the index of a pool's traces; returns their counts, and the traces.

    `read`: the pools that are read, as far as they were indexed.
    """
    columns = (*INDEX_COLUMNS, *(EDIT_COLUMNS if read_pool(pool.teacher) else ()))
    traces = read_traces(run_dir, pool, prompt_ids, pool.teacher.num_samples, columns)
    traces = with_drops(traces, pool.teacher, read)
    for table in traces.tables():
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    found = pool_details(traces)
    if source := read_pool(pool.teacher):  # also where all its requests failed and it has no edit
        found["edits"] = outcomes(traces, pool.teacher, read)
        found["changes"] = changes(traces, read[source])
    return found, traces


def pool_line(found: Mapping[str, Any]) -> str:
    """What a pool holds, in words; of edits also why they are not used."""
    solved = f"{found['prompts_solved']} of {found['prompts']} prompts solved"
    if "edits" not in found:
        return f"{found['correct']} of {found['traces']} traces correct, {solved}"
    lost = ", ".join(f"{number} {reason}" for reason, number in sorted(found["edits"].items()) if reason != KEPT)
    return f"{found['correct']} of {found['traces']} edits kept ({lost or 'none lost'}), {solved}"


def rejected(pools: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Reason -> traces that are not correct, or edits that are not used; over all pools."""
    drops: Counter[str] = Counter()
    for pool in pools:
        if "edits" in pool:
            drops.update({reason: number for reason, number in pool["edits"].items() if reason != KEPT})
        else:
            verdicts = pool["verdicts"].items()
            drops.update({name.lower(): number for name, number in verdicts if name != Verdict.CORRECT})
    return dict(drops)


def judge_index(
    config: JudgeConfig,
    pools: Sequence[Pool],
    prompts: Mapping[str, Prompt],
    run_dir: RunDir,
    console: Console,
) -> dict[str, Any]:
    """The judge's counts on the rejected traces, beside the verifier's and never part of them."""
    index = index_rows(run_dir.column_tables(INDEX_COLUMNS, *VERDICTS, row_type=IndexRow))
    with bars(console) as shown:
        judged = judge_pools(run_dir, pools, prompts, index, config, progress=shown.update)
    for name, counts in judged["pools"].items():
        console.print(f"  judge on {name}: {counts}", markup=False)
    return {"judge": judged}
