"""What each stage does to a run directory: read what stages before it wrote, transform, write, account for rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill.evaluate_stage import evaluate_stage
from distill.generate import generate_stage
from distill.judge_traces import judge_pools
from distill.prompts_stage import prompts_stage
from distill.report import build_report, write_report
from distill.run import Run
from distill.run_dir import Manifest
from distill.schema import IndexRow, Prompt, Verdict
from distill.search import search_and_mix
from distill.terminal import bars
from distill.train.early import early_training
from distill.train.stage import train_stage
from distill.verify import pool_details, read_index, regrade


def generate_and_begin(current: Run) -> Manifest:
    """Ask the teachers; where the recipe wants it, train on their first prompts meanwhile."""
    with early_training(current) as early:
        return generate_stage(current, early.show) if early else generate_stage(current)


def verify_stage(current: Run) -> Manifest:
    """Index the traces of the present prompts; grade again what needs it."""
    prompts = {prompt.prompt_id: prompt for prompt in current.prompts()}
    index: list[IndexRow] = []
    again, details = 0, {}
    for pool in current.pools:
        again += regrade(current.run_dir, pool, prompts, current.recipe.verify)
        rows = [
            row
            for row in read_index(current.run_dir, pool)
            if row.prompt_id in prompts and row.sample_index < pool.teacher.num_samples
        ]
        index += rows
        details[pool.teacher.name] = pool_details(rows, len(prompts))
        solved, name = details[pool.teacher.name]["prompts_solved"], pool.teacher.name
        correct = details[pool.teacher.name]["correct"]
        current.console.print(f"  {name}: {correct}/{len(rows)} traces correct, {solved}/{len(prompts)} prompts solved")
    current.run_dir.write_rows(index, IndexRow, "verify", "verdicts.parquet")
    drops = {
        verdict.value.lower(): count
        for verdict in (Verdict.INCORRECT, Verdict.NO_ANSWER, Verdict.ERROR)
        if (count := sum(row.verdict == verdict for row in index))
    }
    return Manifest(
        stage="verify",
        key="",
        rows_in=len(index),
        rows_out=sum(row.verdict == Verdict.CORRECT for row in index),
        drops=drops,
        details={"pools": details, "graded_again": again, **_judge(current, prompts, index)},
    )


def _judge(current: Run, prompts: Mapping[str, Prompt], index: Sequence[IndexRow]) -> dict[str, Any]:
    """What a judge says of the rejected traces, where the recipe names one: beside the verifier's counts, never in."""
    config = current.recipe.verify.judge
    if config is None:
        return {}
    with bars(current.console) as shown:
        judged = judge_pools(current.run_dir, current.pools, prompts, index, config, progress=shown.update)
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
