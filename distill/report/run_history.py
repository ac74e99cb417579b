"""What the run did: training cells with their loss curves, wall time of every stage, and the funnel of rows."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from distill.config.recipe import Recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, StageName, Training
from distill.core.schema import Verdict
from distill.evaluate.read_scores import ScoredModel, trained_models
from distill.mix.accounting import FILTERED
from distill.report.data import (
    CellAttempt,
    CellCost,
    CellRow,
    Curve,
    FunnelStep,
    HeldOut,
    MatchRow,
    MixRow,
    PairsRow,
    StageRow,
)
from distill.report.pools import Traces, common_prompts
from distill.train.attempts import Attempt, read_attempts
from distill.train.cell_seconds import cell_seconds
from distill.train.cells import Cell, all_cells

Manifests = Mapping[str, Manifest]
WRONG = {
    Verdict.INCORRECT: "incorrect",
    Verdict.NO_ANSWER: "without an answer",
    Verdict.ERROR: "could not be graded",
}


DIVERGENCES = {"kl": "kl", "first": "kl_first", "middle": "kl_middle", "last": "kl_last"}
"""Name in the report -> in a cell's figures."""


def read_manifests(run_dir: RunDir) -> dict[str, Manifest]:
    """The manifests that exist, except the report's own, which describes the previous report."""
    found = {stage: run_dir.read_manifest(stage) for stage in StageName if stage != "report"}
    return {stage: manifest for stage, manifest in found.items() if manifest is not None}


def num_common(manifests: Manifests) -> dict[str, int]:
    """Mix -> the prompts that it could teach: solved by every pool, without those that are held out.

    Where all mixes teach the same prompts these are the run's.
    """
    details = manifests["mix"].details if "mix" in manifests else {}
    counts = {
        name: entry.get("common_prompts", details.get("common_prompts"))
        for name, entry in details.get("mixes", {}).items()
    }
    return {name: int(count) for name, count in counts.items() if count is not None}


def stage_rows(manifests: Manifests) -> list[StageRow]:
    """One row per finished stage."""
    return [
        StageRow(
            stage=stage,
            wall_s=one.wall_s,
            rows_in=one.rows_in,
            rows_out=one.rows_out,
            drops=dict(one.drops),
            finished_at=one.finished_at,
            code_version=one.code_version,
            peak_memory=peak_memory(one.details),
        )
        for stage, one in manifests.items()
    ]


def peak_memory(details: Mapping[str, Any]) -> str | None:
    """Peak memory of a stage (all its processes) or of a training cell (its first worker)."""
    value = details.get("peak_memory_gib", details.get("peak_rss_gib"))
    return None if value is None else f"{value:.1f} GiB"


def cell_rows(recipe: Recipe, run_dir: RunDir, manifests: Manifests) -> list[CellRow]:
    """One row per training cell of the recipe that left metrics or is in the manifest."""
    summary = manifests["train"].details.get("cells", {}) if "train" in manifests else {}
    mixes = manifests["mix"].details.get("mixes", {}) if "mix" in manifests else {}
    cells = [(model, read_curve(run_dir, model.name)) for model in trained_models(recipe)]
    attempts = {model.name: read_attempts(run_dir, model.name) for model, _ in cells}
    lineages = {cell.name: cell.lineage for cell in all_cells(recipe)}
    first_start = min((one.started_at for of_cell in attempts.values() for one in of_cell), default=0.0)
    return [
        _cell_row(
            model,
            curve,
            summary.get(model.name, {}),
            run_dir.read_manifest(*Training(model.name).folder),
            _cell_attempts(attempts[model.name], first_start),
            _lineage(lineages[model.name], summary),
            mixes.get(model.mix, {}),
        )
        for model, curve in cells
        if curve.steps or model.name in summary
    ]


class _Lineage(NamedTuple):
    """What a cell starts from, and what its weights took in all; None: not recorded."""

    parents: tuple[str, ...]
    steps: int | None
    tokens: int | None


def _lineage(cells: Sequence[Cell], summary: Mapping[str, Mapping[str, Any]]) -> _Lineage:
    """`cells`: all that the weights of the last one come from."""
    trained = [summary.get(cell.name, {}) for cell in cells if cell.merge is None]
    sums = [
        sum(one[name] for one in trained) if all(name in one for one in trained) else None
        for name in ("steps", "supervised_tokens")
    ]
    return _Lineage(tuple(parent.name for parent in cells[-1].parents), *sums)


def _cell_attempts(attempts: Sequence[Attempt], first_start: float) -> tuple[CellAttempt, ...]:
    """Times relative to `first_start`. An attempt whose end was not recorded ends where the next one starts."""
    found = []
    for number, one in enumerate(attempts, 1):
        after = attempts[number].started_at if number < len(attempts) else one.started_at
        found.append(
            CellAttempt(
                started_at=round(one.started_at - first_start, 2),
                ended_at=round((after if one.ended_at is None else one.ended_at) - first_start, 2),
                outcome=one.outcome,
                host=one.host,
                pid=one.pid,
                num_workers=one.num_workers,
                first_step=one.first_step,
                detail=one.detail,
            )
        )
    return tuple(found)


def _cell_row(
    model: ScoredModel,
    curve: Curve,
    summary: Mapping[str, Any],
    manifest: Manifest | None,
    attempts: tuple[CellAttempt, ...],
    lineage: _Lineage,
    mix: Mapping[str, Any],
) -> CellRow:
    recorded = {"wall_s": manifest.wall_s, **manifest.details} if manifest else summary
    return CellRow(
        cell=model.name,
        student=model.student,
        mix=model.mix,
        seed=model.seed,
        steps=(steps := recorded.get("steps", curve.steps[-1] if curve.steps else None)),
        supervised_tokens=recorded.get("supervised_tokens"),
        after=lineage.parents,
        total_steps=lineage.steps if lineage.parents else steps,
        total_tokens=lineage.tokens if lineage.parents else recorded.get("supervised_tokens"),
        first_loss=recorded.get("first_loss", curve.losses[0] if curve.losses else None),
        last_loss=recorded.get("last_loss", curve.losses[-1] if curve.losses else None),
        wall_s=recorded.get("wall_s"),
        peak_memory=peak_memory(recorded),
        flops=recorded.get("flops"),
        tokens_per_s=recorded.get("tokens_per_s"),
        mfu=recorded.get("mfu"),
        held_out=_held_out(recorded.get("held_out_loss") or {}),
        pairs=_pairs(recorded, mix),
        match=_match(recorded),
        cost=_cost(recorded),
        curve=curve,
        attempts=attempts,
    )


def _pairs(recorded: Mapping[str, Any], mix: Mapping[str, Any]) -> PairsRow | None:
    """`recorded`: of the cell; `mix`: of its arm."""
    if "pairs" not in recorded or "pairs" not in mix:
        return None
    return PairsRow(pairs=mix["pairs"], without_pair=mix["without_pair"], **recorded["pairs"])


def _match(recorded: Mapping[str, Any]) -> MatchRow | None:
    """`recorded`: of the cell."""
    if "match" not in recorded or "rollouts" not in recorded:
        return None
    before, after = recorded["rollouts"], recorded["match"]
    return MatchRow(
        answers=before["answers"],
        mean_tokens=before["mean_tokens"],
        cut_share=before["cut_share"],
        self_difference=before["self_difference"],
        start={name: before[f"start_{key}"] for name, key in DIVERGENCES.items() if f"start_{key}" in before},
        last={name: after[key] for name, key in DIVERGENCES.items() if key in after},
        drift=after["drift"],
        end_before=before.get("end_student"),
        end_teacher=before.get("end_teacher"),
        end_after=math.exp(after["end"]) if "end" in after else None,
    )


def _cost(recorded: Mapping[str, Any]) -> CellCost | None:
    """`recorded`: of the cell."""
    found = cell_seconds(recorded)
    if found is None:
        return None
    rollouts, rounds = recorded.get("rollouts", {}), recorded.get("rounds", {})
    return CellCost(
        objective=recorded["objective"],
        trained=recorded.get("supervised_tokens"),
        written=int(rollouts.get("tokens", 0) + rounds.get("tokens", 0)),
        scored=int(rollouts.get("tokens", 0)),
        train_s=found.train,
        write_s=found.write,
        score_s=found.score,
        rest_s=found.starts + found.rest,
        device_s=sum(found) * recorded["resources"]["devices"],
    )


def _held_out(recorded: Mapping[str, Mapping[str, float]]) -> dict[str, HeldOut]:
    return {pool: HeldOut(before, recorded["after"][pool]) for pool, before in recorded.get("before", {}).items()}


def read_curve(run_dir: RunDir, cell: str) -> Curve:
    """Loss by step. A resumed cell repeats steps; the last line of a step counts."""
    lines = [_metrics_line(line) for line in run_dir.read_lines(*Training(cell).metrics)]
    losses = {int(line["step"]): float(line["loss"]) for line in lines if "step" in line and "loss" in line}
    steps = tuple(sorted(losses))
    return Curve(steps, tuple(losses[step] for step in steps))


def _metrics_line(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:  # the process was killed while it wrote this line; the resumed cell repeats its step
        return {}
    return found if isinstance(found, dict) else {}


def funnel(recipe: Recipe, manifests: Manifests, traces: Traces, mixes: Sequence[MixRow]) -> list[FunnelStep]:
    """From problems to training examples; each step names what it dropped."""
    return [
        *_prompt_steps(manifests),
        *_trace_steps(manifests, traces),
        *_common_step(recipe, manifests, traces),
        *(FunnelStep(f"examples in {row.mix}", row.rows, {}) for row in mixes),
        *_train_step(manifests),
    ]


def _prompt_steps(manifests: Manifests) -> list[FunnelStep]:
    if "prompts" not in manifests:
        return []
    one = manifests["prompts"]
    return [FunnelStep("problems read", one.rows_in, {}), FunnelStep("prompts kept", one.rows_out, dict(one.drops))]


def _trace_steps(manifests: Manifests, traces: Traces) -> list[FunnelStep]:
    if not len(traces.trace_ids):
        return []
    failed = dict(manifests["generate"].drops) if "generate" in manifests else {}
    lost = {name: int((traces.verdicts == verdict.value).sum()) for verdict, name in WRONG.items()}
    correct = int((traces.verdicts == Verdict.CORRECT.value).sum())
    return [
        FunnelStep("traces written", len(traces.trace_ids), failed),
        FunnelStep("traces verified correct", correct, {reason: count for reason, count in lost.items() if count}),
    ]


def _common_step(recipe: Recipe, manifests: Manifests, traces: Traces) -> list[FunnelStep]:
    if not len(traces.trace_ids):
        return []
    common = common_prompts(recipe, traces)
    some = set[str]().union(*(traces.usable(pool) for group in recipe.arm_groups for pool in group.pools))
    prompts = manifests["prompts"].rows_out if "prompts" in manifests else len(set(traces.prompt_ids.tolist()))
    lost = {"solved by some pools only": len(some) - len(common), "solved by no pool": prompts - len(some)}
    return [FunnelStep("prompts solved by every pool", len(common), lost), *_filter_step(manifests, len(common))]


def _filter_step(manifests: Manifests, num_common: int) -> list[FunnelStep]:
    """Only where filters dropped prompts."""
    one = manifests.get("mix")
    filtered = one.drops.get(FILTERED, 0) if one else 0
    return (
        [FunnelStep("prompts that pass the filters", num_common - filtered, {FILTERED: filtered})] if filtered else []
    )


def _train_step(manifests: Manifests) -> list[FunnelStep]:
    """Only where rows were dropped: each is counted once for every cell that dropped it."""
    one = manifests.get("train")
    return (
        [FunnelStep("examples trained on, over all cells", one.rows_out, dict(one.drops))] if one and one.drops else []
    )
