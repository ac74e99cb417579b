"""One streaming job: prompts flow past the engines of some teachers, which run at the same time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from cluster.placement import Resources
from cluster.session import Device
from distill.config.recipe import Recipe
from distill.config.shares import describe_rows
from distill.config.teachers import EndpointTeacher, RuleTeacher, VllmTeacher, read_pool
from distill.core.memory import release_freed_memory
from distill.core.metrics import publish
from distill.core.progress_bars import Bars, bars
from distill.core.run_dir import RunDir, StageName
from distill.generate.ask_policy import AskPlan
from distill.generate.asker import TeacherJob
from distill.generate.endpoint_teacher import ask_endpoint
from distill.generate.progress_actor import Snapshot, generate_values, start_progress_actor
from distill.generate.rule_teacher import ask_rule
from distill.generate.survey import Group, Survey, is_enough, survey_prompts
from distill.generate.traces import paid_tokens
from distill.generate.vllm_teacher import ask_vllm, engine_need
from distill.generate.watch import describe, watch
from distill.run.pools import Pool

ENDPOINT_NEED = Resources(cpus=0.1)
"""Resources of the actor that asks an endpoint, or applies rules."""
TRIM_CHUNKS = 256
"""Chunks after which the driver returns freed memory to the system."""


def first_engine_need(pool: Pool, device: Device) -> Resources:
    """Resources of a teacher's first engines; an endpoint or a rule takes next to none."""
    return engine_need(pool, device) if isinstance(pool.teacher, VllmTeacher) else ENDPOINT_NEED


def ask_teachers(
    groups: Sequence[Group],
    plan: AskPlan,
    pools: Sequence[Pool],
    recipe: Recipe,
    run_dir: RunDir,
    *,
    device: Device,
    console: Console,
) -> Counter[str]:
    """Request the missing traces of some groups of pools. Returns the counts of this session.

    Args:
        groups: pools by engine; their engines run at the same time.
        plan: the traces that are wanted for every prompt.
        pools: all pools of the run; their traces on disk decide what is asked.
        recipe: of the run.
        run_dir: where the traces are written.
        device: what this cluster's engines compute on.
        console: for the progress bars.
    """
    names = {pool.name for group in groups for pool in group}
    survey = survey_prompts(run_dir, pools, plan, names)
    if not survey.num_open or is_enough(survey, recipe.generate.enough_prompts):
        return Counter()
    _print_start(survey, ", ".join(sorted(names)), console)
    progress = start_progress_actor(
        complete=survey.num_complete,
        enough_prompts=recipe.generate.enough_prompts,
        spent_tokens=spent_tokens(run_dir, pools),
    )
    jobs = [teacher_job(group, plan, pools, recipe, run_dir, progress) for group in groups]
    with bars(console) as shown:

        def show(snapshot: Snapshot) -> None:
            show_progress(shown, snapshot, survey, recipe, names, num_groups=len(groups))

        deadline_s = recipe.generate.startup_deadline_s
        return watch(lambda: consume(jobs, survey, device), progress, deadline_s=deadline_s, show=show)


def teacher_job(
    group: Group, plan: AskPlan, pools: Sequence[Pool], recipe: Recipe, run_dir: RunDir, progress: Any
) -> TeacherJob:
    """The job of a group's engines. `pools`: all of the run; `progress`: handle of the `ProgressActor`."""
    reads = {read_pool(pool.teacher) for pool in group}
    return TeacherJob(
        run_uri=run_dir.address,
        pools=tuple(group),
        plan=plan,
        read={pool.name: pool for pool in pools if pool.name in reads},
        generate=recipe.generate,
        verify=recipe.verify,
        seed=recipe.seed,
        progress=progress,
    )


def show_progress(
    shown: Bars, snapshot: Snapshot, survey: Survey, recipe: Recipe, names: set[str], *, num_groups: int
) -> None:
    """Update the progress bars and publish the same values to Prometheus."""
    total = survey.num_open * num_groups
    done = min(snapshot.counts.get("prompts", 0), total)
    shown.update(f"prompts past {', '.join(sorted(names))}", done, total, describe(snapshot))
    most = recipe.generate.enough_prompts or survey.num_complete + survey.num_open
    mixed = [mix for mix in recipe.mixes if len(mix.shares) > 1 and not mix.sources]
    rows = "; ".join(f"{mix.name}: {describe_rows(mix, snapshot.complete)}" for mix in mixed)
    shown.update("prompts that all pools solved", min(snapshot.complete, most), most, rows)
    publish(recipe.name, generate_values(snapshot, survey.num_open, num_groups))


def _print_start(survey: Survey, names: str, console: Console) -> None:
    num_traces = sum(len(index.samples) for index in survey.indices.values())
    if num_traces:
        console.print(f"  {num_traces} traces are already on disk")
    console.print(f"  [dim]{names}: starting the engines (about a minute) ...[/]")


def spent_tokens(run_dir: RunDir, pools: Sequence[Pool]) -> dict[str, int]:
    """Endpoint -> completion tokens of its traces on disk, whatever its settings were: what earlier sessions paid
    for."""
    return {pool.name: paid_tokens(run_dir, pool.name) for pool in pools if isinstance(pool.teacher, EndpointTeacher)}


def consume(jobs: Sequence[TeacherJob], survey: Survey, device: Device) -> None:
    """Run the streaming job to its end."""
    done = build_job(jobs, survey, device).iter_batches(batch_format="pyarrow", batch_size=None)
    for number, batch in enumerate(done):
        del batch  # the traces are on disk
        if number % TRIM_CHUNKS == 0:
            release_freed_memory()


def build_job(jobs: Sequence[TeacherJob], survey: Survey, device: Device) -> Any:
    """The lazy data set that sends the open chunks past every engine in turn."""
    import ray.data

    # Not from_arrow: it starts a Ray task for every table, just to count its rows.
    chunks = [asdict(chunk) for chunk in survey.open_chunks]
    data = ray.data.from_items(chunks, override_num_blocks=len(chunks))
    for job in jobs:
        match job.pools[0].teacher:
            case VllmTeacher():
                data = ask_vllm(data, job, device)
            case EndpointTeacher():
                data = ask_endpoint(data, job)
            case RuleTeacher():
                data = ask_rule(data, job)
    data.set_name("-".join([StageName.GENERATE, *(pool.name for job in jobs for pool in job.pools)]))
    return data
