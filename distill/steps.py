"""What each stage does to a run directory: read what stages before it wrote, transform, write, account for rows."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from distill.evaluate import (
    Evaluated,
    Item,
    asked,
    endpoints,
    engines_at_once,
    evaluated_models,
    helped_models,
    items,
    same_weights,
    serve_config,
    with_helped,
)
from distill.generate import generate_stage
from distill.judge_traces import judge_pools
from distill.mix.stage import mix_stage
from distill.prompts_stage import prompts_stage
from distill.report import build_report, write_report
from distill.run import Run
from distill.run_dir import Manifest, RunDir
from distill.schema import Prompt, Score, Verdict
from distill.score import Address, Place, score_items, unscored, write_scores
from distill.terminal import bars
from distill.train.early import early_training
from distill.train.stage import train_stage
from distill.verify import counted, index_rows, of_prompts, pool_details, read_index_table, regrade
from serve.batch import BatchConfig
from serve.config import group_engines
from serve.deploy import deploy, undeploy


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


def evaluate_stage(current: Run) -> Manifest:
    """Score every model on every benchmark that has no score yet."""
    recipe, run_dir = current.recipe, current.run_dir
    benchmarks = {
        name: [
            Prompt(**row)
            for row in run_dir.read_table("prompts", "benchmarks", f"{name}.parquet", row_type=Prompt).to_pylist()
        ]
        for name in recipe.evaluate.benchmarks
    }
    unhelped = evaluated_models(recipe, current.models, run_dir)
    evaluated = [*unhelped, *helped_models(recipe, unhelped)]
    wanted, first = items(evaluated, benchmarks, recipe), same_weights(evaluated)
    todo = list(unscored(wanted, run_dir))
    if len(todo) < len(wanted):
        current.console.print(f"  {len(wanted) - len(todo)} of {len(wanted)} scores are there already")
    alone = [item for item in todo if first[item.model.name] == item.model.name]
    models = list({item.model.name: item.model for item in alone}.values())
    times: dict[str, float] = {}
    for wave in with_helped(models, unhelped, engines_at_once(recipe.serve, current.session) if models else 1):
        open_items = [item for item in unscored(alone, run_dir) if item.model in wave]
        found = _score_wave(current, wave, open_items, benchmarks)
        times = {name: round(times.get(name, 0.0) + value, 2) for name, value in found.items()}
    for item in todo:
        if item not in alone:
            _copy_score(run_dir, item, first[item.model.name])
    scores = [run_dir.read_manifest(*item.folder) for item in wanted]
    counted = [manifest for manifest in scores if manifest is not None]
    errors = sum(manifest.drops.get("error", 0) for manifest in counted)
    rows_in = sum(manifest.rows_in for manifest in counted)
    return Manifest(
        stage="evaluate",
        key="",
        rows_in=rows_in,
        rows_out=rows_in - errors,
        drops={"error": errors} if errors else {},
        details={"scores": len(counted), "this_session": times},
    )


def _score_wave(
    current: Run, wave: Sequence[Evaluated], todo: Sequence[Item], benchmarks: Mapping[str, Sequence[Prompt]]
) -> dict[str, float]:
    """Score a wave of models; how long engines took to come up and go and the answers to be there, and of how many."""
    recipe, session = current.recipe, current.session
    config = serve_config(recipe.serve, session.device, port=0)
    current.console.print(f"  [dim]starting the engines of {', '.join(model.name for model in wave)} ...[/]")
    began = time.monotonic()
    url = deploy(endpoints(wave), config, log_dir=session.log_dir)
    is_up = time.monotonic()
    place = Place(current.run_dir, current.console, recipe.verify)
    batch = BatchConfig(max_in_flight=recipe.evaluate.max_in_flight)
    try:
        # One after another fills an engine's batch, which is what counts on a CPU; GPUs of their own work side by side.
        score_items(todo, benchmarks, recipe, place, Address(url, batch, one_by_one=session.device == "cpu"))
        is_answered = time.monotonic()
    finally:
        undeploy()
    return {
        "waves": 1,
        "engines": len(group_engines(endpoints(wave))),
        "answers": sum(
            len(benchmarks[item.benchmark]) * asked(recipe.evaluate, item.benchmark).num_samples for item in todo
        ),
        "start_s": is_up - began,
        "ask_s": is_answered - is_up,
        "stop_s": time.monotonic() - is_answered,
    }


def _copy_score(run_dir: RunDir, item: Item, other: str) -> None:
    """Give a model the scores of another name for the same weights."""
    rows = run_dir.read_table("evaluate", other, f"{item.benchmark}.parquet", row_type=Score).to_pylist()
    scores = [Score(**{**row, "model": item.model.name}) for row in rows]
    write_scores(run_dir, item, scores)


def report_stage(current: Run) -> Manifest:
    """Write the report from scores and manifests."""
    path = write_report(build_report(current.recipe, current.run_dir), current.run_dir)
    current.console.print(f"  {path}", markup=False)
    return Manifest(stage="report", key="")


STEPS: dict[str, Callable[[Run], Manifest]] = {
    "prompts": prompts_stage,
    "generate": generate_and_begin,
    "verify": verify_stage,
    "mix": mix_stage,
    "train": train_stage,
    "evaluate": evaluate_stage,
    "report": report_stage,
}
