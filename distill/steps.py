"""What each stage does to a run directory: read what stages before it wrote, transform, write, account for rows."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from distill.evaluate_stage import evaluate_stage
from distill.generate import generate_stage
from distill.judge_traces import judge_pools
from distill.prompts_stage import prompts_stage
from distill.report import build_report, write_report
from distill.run import Run
from distill.run_dir import Manifest
from distill.schema import Verdict
from distill.search import search_and_mix
from distill.terminal import bars
from distill.train.early import early_training
from distill.train.stage import train_stage
from distill.verify import counted, index_rows, of_prompts, pool_details, read_index_table, regrade


def generate_and_begin(current: Run) -> Manifest:
    """Ask the teachers; where the recipe wants it, train on their first prompts meanwhile."""
    with early_training(current) as early:
        return generate_stage(current, early.show) if early else generate_stage(current)


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


def report_stage(current: Run) -> Manifest:
    """Write the report from scores and manifests."""
    path = write_report(build_report(current.recipe, current.run_dir), current.run_dir)
    current.console.print(f"  {path}", markup=False)
    return Manifest(stage="report", key="")


STEPS: dict[str, Callable[[Run], Manifest]] = {
    "prompts": prompts_stage,
    "generate": generate_and_begin,
    "verify": verify_stage,
    "mix": search_and_mix,
    "train": train_stage,
    "evaluate": evaluate_stage,
    "report": report_stage,
}
