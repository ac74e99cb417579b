"""Stage 2: teachers write traces and the verifier reads them, streaming past the engines of all teachers that fit.

    prompts -> cheapest engine -> next engine -> ... -> counts
               (ask, verify, keep, ask again: distill/generate/asker.py)

A trace's identity is known before it is written and its shard appears within a second of its verdict, so after a crash
only what is in no shard is asked for again. A pool is kept per teacher fingerprint: a changed teacher is a new pool,
never merged with the old one.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.placement import Resources
from distill.config.shares import describe_cells
from distill.config.teachers import DatasetTeacher, EndpointTeacher, VllmTeacher
from distill.core.memory import give_back_freed
from distill.core.metrics import publish
from distill.core.progress_bars import Bars, bars
from distill.core.run_dir import Manifest, RunDir
from distill.core.schema import Dropped
from distill.generate.ask_policy import AskPlan, plan_jobs
from distill.generate.asker import TeacherJob
from distill.generate.pools import ask_plan, group_by_engine
from distill.generate.progress_actor import Snapshot, generate_values, start_tally
from distill.generate.survey import Group, Survey, is_enough, survey_prompts
from distill.generate.trace_shards import FAILED, STAGE, drop_repeats
from distill.generate.traces import of_prompts, read_index_table
from distill.generate.watch import describe, watch
from distill.run.context import Run
from distill.run.pools import Pool

TRIM_CHUNKS = 256
"""The driver gives freed memory back after this many."""

Meanwhile = Callable[[Bars], None]


def _nothing(shown: Bars) -> None:
    """Nothing else goes on."""


def generate_stage(current: Run, meanwhile: Meanwhile = _nothing) -> Manifest:
    """Ask every teacher for the traces that are wanted and not on disk yet.

    `meanwhile` is called with the bars whenever they are drawn: what else goes on beside the teachers.
    """
    started = time.monotonic()
    groups = group_by_engine(current.pools)
    plan = ask_plan(groups, current.recipe.mixes, stop_early=current.recipe.generate.stop_early)
    outcomes = import_pools(current)
    asked = [group for group in groups if not isinstance(group[0].teacher, DatasetTeacher)]
    names = {pool.name for group in asked for pool in group}
    survey = survey_prompts(current.run_dir, current.pools, plan, names)
    counts: Counter[str] = Counter()
    if survey.num_open and not is_enough(current, survey):
        for job in plan_jobs([engine_need(current, group[0]) for group in asked], current.session.nodes()):
            counts += ask_teachers(current, [asked[position] for position in job], plan, meanwhile)
        survey = survey_prompts(current.run_dir, current.pools, plan, names)
    for pool in current.pools:
        drop_repeats(current.run_dir, pool.folder)
    give_back_freed()
    return _manifest(current, survey, counts, outcomes, wall_s=time.monotonic() - started)


def import_pools(current: Run) -> Counter[str]:
    """Fill the pools that are data sets; rows by what became of them."""
    from distill.generate.dataset_teacher import import_pool

    outcomes: Counter[str] = Counter()
    imported = [pool for pool in current.pools if isinstance(pool.teacher, DatasetTeacher)]
    prompts = {prompt.prompt_id: prompt for prompt in current.prompts()} if imported else {}
    for pool in imported:
        outcome = import_pool(pool, prompts, base=current.base, run_dir=current.run_dir, verify=current.recipe.verify)
        current.console.print(f"  {pool.name}: {dict(outcome)}")
        outcomes += outcome
    return outcomes


# Asking


def engine_need(current: Run, pool: Pool) -> Resources:
    """What the first engines of a teacher take; an address takes next to nothing."""
    if isinstance(pool.teacher, EndpointTeacher):
        return Resources(cpus=0.1)
    from distill.generate.vllm_teacher import engine_need as vllm_need

    return vllm_need(pool, current.session.device)


def ask_teachers(current: Run, groups: Sequence[Group], plan: AskPlan, meanwhile: Meanwhile) -> Counter[str]:
    """One streaming job past the engines of some teachers, all up together. Returns the counts of this session."""
    names = {pool.name for group in groups for pool in group}
    survey = survey_prompts(current.run_dir, current.pools, plan, names)
    if not survey.num_open or is_enough(current, survey):
        return Counter()
    _say_start(current, survey, ", ".join(sorted(names)))
    generate = current.recipe.generate
    tally = start_tally(
        complete=survey.num_complete,
        enough_prompts=generate.enough_prompts,
        spent_tokens=spent_tokens(current.run_dir, current.pools),
    )
    jobs = [
        TeacherJob(
            run_uri=current.run_dir.uri,
            pools=tuple(group),
            plan=plan,
            generate=generate,
            verify=current.recipe.verify,
            seed=current.recipe.seed,
            tally=tally,
        )
        for group in groups
    ]
    with bars(current.console) as shown:

        def show(snapshot: Snapshot) -> None:
            total = survey.num_open * len(groups)
            done = min(snapshot.counts.get("prompts", 0), total)
            shown.update(f"prompts past {', '.join(sorted(names))}", done, total, describe(snapshot))
            most = generate.enough_prompts or survey.num_complete + survey.num_open
            blends = [mix for mix in current.recipe.mixes if len(mix.shares) > 1]
            filling = "; ".join(f"{mix.name}: {describe_cells(mix, snapshot.complete)}" for mix in blends)
            shown.update("prompts that fill every arm", min(snapshot.complete, most), most, filling)
            publish(current.recipe.name, generate_values(snapshot, survey.num_open, len(groups)))
            meanwhile(shown)

        return watch(lambda: consume(jobs, survey, current), tally, deadline_s=generate.startup_deadline_s, show=show)


def _say_start(current: Run, survey: Survey, names: str) -> None:
    num_traces = sum(len(index.samples) for index in survey.indices.values())
    if num_traces:
        current.console.print(f"  {num_traces} traces are on disk already")
    current.console.print(f"  [dim]{names}: starting the engines (about a minute) ...[/]")


def spent_tokens(run_dir: RunDir, pools: Sequence[Pool]) -> dict[str, int]:
    """Completion tokens that each endpoint was paid for in earlier sessions, by the traces on disk."""
    return {
        pool.name: pc.sum(read_index_table(run_dir, pool).column("completion_tokens")).as_py() or 0
        for pool in pools
        if isinstance(pool.teacher, EndpointTeacher)
    }


def consume(jobs: Sequence[TeacherJob], survey: Survey, current: Run) -> None:
    """Run the streaming job to its end."""
    done = build_job(jobs, survey, current).iter_batches(batch_format="pyarrow", batch_size=None)
    for number, batch in enumerate(done):
        del batch  # what counts is on disk
        if number % TRIM_CHUNKS == 0:
            give_back_freed()


def build_job(jobs: Sequence[TeacherJob], survey: Survey, current: Run) -> Any:
    """Prompts past every engine in turn, lazily."""
    import ray.data

    from distill.generate.endpoint_teacher import ask_endpoint
    from distill.generate.vllm_teacher import ask_vllm

    # Not from_arrow: it starts a Ray task for every table, to hear how many rows it has.
    chunks = [asdict(chunk) for chunk in survey.open_chunks]
    data = ray.data.from_items(chunks, override_num_blocks=len(chunks))
    for job in jobs:
        is_ours = isinstance(job.pools[0].teacher, VllmTeacher)
        data = ask_vllm(data, job, current.session.device) if is_ours else ask_endpoint(data, job)
    data.set_name("-".join(["generate", *(pool.name for job in jobs for pool in job.pools)]))
    return data


# Accounting


def _manifest(current: Run, survey: Survey, counts: Counter[str], imported: Counter[str], *, wall_s: float) -> Manifest:
    """Rows in are the requests that were made and the rows of data sets; every one became a trace or a counted drop."""
    run_dir = current.run_dir
    ids = current.prompt_ids()
    indices = {pool.name: read_index_table(run_dir, pool) for pool in current.pools}
    pools = {pool.name: pool_counts(pool, of_prompts(indices[pool.name], ids)) for pool in current.pools}
    traces = sum(pool["traces"] for pool in pools.values())
    drops = failures(run_dir, indices, ids)
    drops.update({reason: number for reason, number in imported.items() if reason != "traces"})
    busy_s = counts["busy_ms"] / 1000
    prompt_tokens = counts["prompt_tokens"]
    return Manifest(
        stage=STAGE,
        key="",
        rows_in=traces + sum(drops.values()),
        rows_out=traces,
        drops=dict(drops),
        details={
            "pools": pools,
            "complete_prompts": survey.num_complete,
            "not_asked": dict(survey.saved),
            "this_session": dict(counts),
            "engine_s": round(wall_s, 1),
            "busy_s": busy_s,
            "tokens_per_s": round(counts["tokens"] / busy_s, 1) if busy_s else None,
            "prefix_cache_hits": round(counts["cached_tokens"] / prompt_tokens, 3) if prompt_tokens else None,
        },
    )


def pool_counts(pool: Pool, index: pa.Table) -> dict[str, Any]:
    """Traces and tokens of a pool for the present prompts."""
    tokens = pc.sum(index.column("completion_tokens")).as_py() or 0
    return {"traces": index.num_rows, "completion_tokens": tokens, "folder": pool.folder}


def failures(run_dir: RunDir, indices: Mapping[str, pa.Table], prompt_ids: pa.ChunkedArray) -> Counter[str]:
    """Requests that have no trace, by reason: those of the present prompts and teachers, each once."""
    failed = run_dir.read_table(STAGE, FAILED, row_type=Dropped).to_pylist()
    if not failed:
        return Counter()
    on_disk = {name for index in indices.values() for name in index.column("trace_id").to_pylist()}
    present = set(prompt_ids.to_pylist())
    lost: dict[str, str] = {}
    for row in failed:
        kept = _kept_row(row["row"])
        if row["where"] in indices and kept.get("prompt_id") in present and kept.get("trace_id") not in on_disk:
            lost[kept["trace_id"]] = row["reason"]
    return Counter(lost.values())


def _kept_row(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except json.JSONDecodeError:  # cut at the limit of a dropped row
        return {}
