"""Stage 2, generate: teachers write traces and the verifier grades them while the prompts stream past all engines.

    prompts -> cheapest engine -> next engine -> ... -> counts
               (request, grade, store, retry: distill/generate/asker.py)

A trace's identity is known before it is written, and its shard appears within a second of its verdict: after a crash
only the traces that are in no shard are requested again. Every teacher fingerprint has a pool of its own: a changed
teacher starts a new one and is never merged with the old.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from rich.console import Console

from distill.config.pass_order import PassNumbers
from distill.config.teachers import DatasetTeacher, EndpointTeacher
from distill.config.verify import VerifyConfig
from distill.core.errors import StageError
from distill.core.manifest import Manifest
from distill.core.memory import release_freed_memory
from distill.core.run_dir import FAILED_REQUESTS, RunDir, StageName
from distill.core.schema import Dropped, trace_id
from distill.generate.ask_policy import plan_jobs
from distill.generate.dataset_teacher import import_pool
from distill.generate.pools import FAILED, REFUSED, ask_plan, group_by_engine
from distill.generate.survey import Survey, is_enough, survey_prompts
from distill.generate.trace_shards import drop_duplicates
from distill.generate.traces import PoolTraces, read_traces
from distill.run.context import RunContext, read_prompt_ids, read_prompts
from distill.run.pools import Pool


class Imports(NamedTuple):
    """What the imports of all pools did."""

    counts: Counter[str]
    """Rows of the data sets by outcome."""
    warnings: list[str]


def generate_stage(run: RunContext) -> Manifest:
    """Request the traces that are wanted and not on disk yet from every teacher."""
    started = time.monotonic()
    recipe, run_dir, pools = run.recipe, run.run_dir, run.pools
    groups = group_by_engine(pools)
    asked = asked_now(groups, recipe.pass_numbers)
    names = {pool.name for group in asked for pool in group}
    plan = ask_plan(groups, recipe.arm_groups, names, stop_early=recipe.generate.stop_early)
    imported = import_pools(pools, run_dir, run.base, recipe.verify, run.console)
    survey = survey_prompts(run_dir, pools, plan, names)
    counts: Counter[str] = Counter()
    if survey.num_open and not is_enough(survey, recipe.generate.enough_prompts):
        # Start time: ray.llm and vLLM, 9 s and 290 MiB that a run whose prompts are all answered does without.
        from distill.generate.ask_job import ask_teachers, first_engine_need

        session = run.session
        needs = [first_engine_need(group[0], session.device) for group in asked]
        jobs = [[asked[position] for position in job] for job in plan_jobs(needs, session.nodes())]
        while True:
            new = Counter[str]()
            for job in jobs:
                new += ask_teachers(job, plan, pools, recipe, run_dir, device=session.device, console=run.console)
            counts += new
            survey = survey_prompts(run_dir, pools, plan, names)
            # A reader on a later engine may need more of an earlier one; each round writes it, or is the last.
            if not (survey.num_short and new["traces"]) or is_enough(survey, recipe.generate.enough_prompts):
                break
    for pool in pools:
        drop_duplicates(run_dir, pool.folder)
    release_freed_memory()
    done = generate_manifest(run_dir, pools, survey, counts, imported, wall_s=time.monotonic() - started)
    require_answers([pool for pool in pools if pool.name in names], done.details["pools"])
    return done


def asked_now(groups: Sequence[Sequence[Pool]], numbers: PassNumbers) -> list[list[Pool]]:
    """The pools that can be asked for traces in the last of a run's passes so far.

    What an earlier pass gave up is not asked again: a student was trained on what there was, and writes by now.
    """
    now = [[pool for pool in group if numbers.teachers[pool.name] == numbers.last] for group in groups]
    return [group for group in now if group and not isinstance(group[0].teacher, DatasetTeacher)]


def import_pools(pools: Sequence[Pool], run_dir: RunDir, base: Path, verify: VerifyConfig, console: Console) -> Imports:
    """Import the pools that are data sets."""
    outcomes: Counter[str] = Counter()
    warnings: list[str] = []
    imported = [pool for pool in pools if isinstance(pool.teacher, DatasetTeacher)]
    prompts = read_prompts(run_dir) if imported else {}
    for pool in imported:
        found = import_pool(pool, prompts, base=base, run_dir=run_dir, verify=verify)
        removed = f", {found.num_removed} removed: no longer in the source" if found.num_removed else ""
        console.print(f"  {pool.name}: {dict(found.counts)}{removed}", markup=False)
        if found.warning:
            console.print(f"WARNING: {found.warning}", style="bold yellow", markup=False)
            warnings.append(found.warning)
        outcomes += found.counts
    return Imports(outcomes, warnings)


def require_answers(asked: Sequence[Pool], counted: Mapping[str, Mapping[str, Any]]) -> None:
    """That every teacher whose requests failed has answered at least one: else it was not there, and is asked again by
    the same command. An engine of ours refuses a request for what is in it, an endpoint may refuse all.

    Args:
        asked: the pools that were asked.
        counted: pool -> its counts (`pool_counts`).

    Raises:
        StageError: of one no trace is on disk.
    """
    for pool in asked:
        reasons = (FAILED, REFUSED) if isinstance(pool.teacher, EndpointTeacher) else (FAILED,)
        lost = {reason: count for reason, count in counted[pool.name]["failed"].items() if reason in reasons}
        if lost and not counted[pool.name]["traces"]:
            told = ", ".join(f"{count} x {reason}" for reason, count in lost.items())
            raise StageError(
                f"teachers[{pool.name}]: none of its requests was answered ({told}; the rows under generate/failed say "
                "why) -> correct that; the same command asks again"
            )


# Accounting


def generate_manifest(
    run_dir: RunDir,
    pools: Sequence[Pool],
    survey: Survey,
    counts: Counter[str],
    imported: Imports,
    *,
    wall_s: float,
) -> Manifest:
    """The manifest. `rows_in` are requests and rows of data sets; each became a trace or a counted drop."""
    ids = read_prompt_ids(run_dir)
    indices = {pool.name: read_traces(run_dir, pool, ids, columns=("completion_tokens",)) for pool in pools}
    failed = failures(run_dir, pools, indices, ids)
    counted = {pool.name: pool_counts(pool, indices[pool.name], failed[pool.name]) for pool in pools}
    traces = sum(pool["traces"] for pool in counted.values())
    drops = sum(failed.values(), Counter[str]())
    drops.update({reason: number for reason, number in imported.counts.items() if reason != "traces"})
    busy_s = counts["busy_ms"] / 1000
    prompt_tokens = counts["prompt_tokens"]
    return Manifest(
        stage=StageName.GENERATE,
        key="",
        rows_in=traces + sum(drops.values()),
        rows_out=traces,
        drops=dict(drops),
        details={
            "pools": counted,
            "complete_prompts": survey.num_complete,
            "not_asked": dict(survey.saved),
            "warnings": imported.warnings,
            "this_session": dict(counts),
            "engine_s": round(wall_s, 1),
            "busy_s": busy_s,
            "tokens_per_s": round(counts["tokens"] / busy_s, 1) if busy_s else None,
            "prefix_cache_hits": round(counts["cached_tokens"] / prompt_tokens, 3) if prompt_tokens else None,
        },
    )


def pool_counts(pool: Pool, index: PoolTraces, failed: Mapping[str, int]) -> dict[str, Any]:
    """Traces and tokens of a pool and its requests without a trace, for the current prompts."""
    tokens = int(index.columns["completion_tokens"].sum(dtype=np.int64))
    return {"traces": len(index), "completion_tokens": tokens, "failed": dict(failed), "folder": pool.folder}


def failures(
    run_dir: RunDir, pools: Sequence[Pool], indices: Mapping[str, PoolTraces], prompt_ids: pa.ChunkedArray
) -> dict[str, Counter[str]]:
    """Pool -> its requests without a trace, by reason; only those of the current prompts and teachers, each once. Those
    of a teacher that has changed since are of a pool that is no longer there."""
    found, fingerprints = {name: Counter[str]() for name in indices}, {pool.name: pool.fingerprint for pool in pools}
    failed = run_dir.read_table(*FAILED_REQUESTS, row_type=Dropped).to_pylist()
    if not failed:
        return found
    present = set(prompt_ids.to_pylist())
    lost: dict[str, tuple[str, str]] = {}
    for row in failed:
        request = _dropped_request(row["row"])
        mine = fingerprints.get(row["where"])
        if mine is not None and request.get("prompt_id") in present and _is_of(request, mine):
            lost[request["trace_id"]] = (row["where"], row["reason"])
    names = [*lost]
    on_disk = np.logical_or.reduce([index.holds(names) for index in indices.values()])
    for name, is_there in zip(names, on_disk, strict=True):
        pool, reason = lost[name]
        found[pool][reason] += not is_there
    return {pool: +counts for pool, counts in found.items()}


def _is_of(request: Mapping[str, Any], fingerprint: str) -> bool:
    """Whether a failed request was one of the pool with this fingerprint: its identity follows from that."""
    source, index = request.get("parent") or request["prompt_id"], request.get("sample_index")
    return isinstance(index, int) and request.get("trace_id") == trace_id(source, fingerprint, index)


def _dropped_request(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except json.JSONDecodeError:  # cut at the size limit of a dropped row
        return {}
