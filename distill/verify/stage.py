"""Stage 3: verdicts of all traces."""

from typing import Any

import pyarrow as pa

from distill.core.progress_bars import bars
from distill.core.run_dir import Manifest
from distill.core.schema import Verdict
from distill.generate.traces import counted, index_rows, of_prompts, read_index_table
from distill.run.context import Run
from distill.verify.judge_traces import judge_pools
from distill.verify.regrade import pool_details, regrade


def verify_stage(current: Run) -> Manifest:
    """Index the traces of the present prompts; grade again what needs it."""
    ids = current.prompt_ids()
    again, details, tables = 0, {}, []
    for pool in current.pools:
        again += regrade(current.run_dir, pool, lambda: current.prompts_by_id, current.recipe.verify)
        table = of_prompts(read_index_table(current.run_dir, pool), ids, pool.teacher.num_samples)
        name, found = pool.teacher.name, pool_details(table, len(ids))
        solved = (
            f"{found['correct']}/{found['traces']} traces correct, {found['prompts_solved']}/{len(ids)} prompts solved"
        )
        current.console.print(f"  {name}: {solved}")
        tables.append(table)
        details[name] = found
    index = pa.concat_tables(tables)
    current.run_dir.write_table(index, "verify", "verdicts.parquet")
    verdicts = counted(index.column("verdict"))
    lost = (Verdict.INCORRECT, Verdict.NO_ANSWER, Verdict.ERROR)
    return Manifest(
        stage="verify",
        key="",
        rows_in=index.num_rows,
        rows_out=verdicts.get(Verdict.CORRECT, 0),
        drops={verdict.value.lower(): verdicts[verdict] for verdict in lost if verdict in verdicts},
        details={"pools": details, "graded_again": again, **_judge(current, index)},
    )


def _judge(current: Run, index: pa.Table) -> dict[str, Any]:
    """What a judge says of the rejected traces, where the recipe names one: beside the verifier's counts, never in."""
    config = current.recipe.verify.judge
    if config is None:
        return {}
    prompts, rows = current.prompts_by_id, index_rows(index)
    with bars(current.console) as shown:
        judged = judge_pools(current.run_dir, current.pools, prompts, rows, config, progress=shown.update)
    for name, counts in judged["pools"].items():
        current.console.print(f"  judge on {name}: {counts}", markup=False)
    return {"judge": judged}
