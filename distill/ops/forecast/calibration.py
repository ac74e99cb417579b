"""Measurements in a run directory: of the work (solve rates, lengths) and of the machines (times).

Reads manifests and scores. The calibration factors are the measured times of a run over its modelled ones, so a
calibrated forecast of that same run gives its own times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from cluster.gpus import gpu_kind
from cluster.placement import Resources
from distill.config.prompt_sets import GroupKey
from distill.config.recipe import Recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, StageName, benchmark_scores
from distill.core.schema import Score
from distill.ops.forecast.expected_samples import ExpectedSamples
from distill.ops.forecast.stage_times import ROW_S, Calibration, Inputs, forecast
from distill.ops.forecast.train_eval_time import num_requests, step_s
from distill.ops.forecast.workload import MeasuredTeacher, MeasuredWork, teacher_order
from distill.train.cell_seconds import cell_seconds
from distill.train.machines import Machines


def measured_work(run_dir: RunDir, recipe: Recipe) -> MeasuredWork:
    """Solve rates and lengths of the finished stages."""
    generate, verify = run_dir.read_manifest(StageName.GENERATE), run_dir.read_manifest(StageName.VERIFY)
    mix, train = run_dir.read_manifest(StageName.MIX), run_dir.read_manifest(StageName.TRAIN)
    session = generate.details.get("this_session", {}) if generate else {}
    answers = _answers(run_dir, recipe)
    complete = generate.details.get("complete_prompts") if generate else None
    return MeasuredWork(
        teachers=dict(_teachers(recipe, verify)) if verify else {},
        prompt_tokens=session["prompt_tokens"] / session["traces"] if session.get("traces") else None,
        prefix_hits=generate.details.get("prefix_cache_hits") if generate and session.get("traces") else None,
        usable=min(1.0, mix.rows_out / complete) if mix and complete else 1.0,
        row_prompt_tokens=_row_prompt_tokens(train) if train else None,
        answer_tokens=answers.tokens if answers else None,
        answer_prompt_tokens=answers.prompt_tokens if answers else None,
    )


def _teachers(recipe: Recipe, verify: Manifest) -> Iterator[tuple[str, MeasuredTeacher]]:
    groups, pools = recipe.arm_groups, verify.details["pools"]
    reached: dict[GroupKey, float] = {}
    teachers = {teacher.name: teacher for teacher in recipe.teachers}
    for name in teacher_order(recipe):
        teacher, found = teachers[name], pools.get(name)
        if not found or not found["traces"]:
            continue
        mine = [group.key for group in groups if name in group.pools]
        is_known = recipe.generate.stop_early and mine and all(group in reached for group in mine)
        asked = max(1.0, sum(reached[group] for group in mine) if is_known else float(found["prompts"]))
        yield (
            teacher.name,
            MeasuredTeacher(
                num_samples=teacher.num_samples,
                samples=ExpectedSamples(found["traces"] / asked, min(1.0, found["prompts_solved"] / asked)),
                solve_rate=found["correct"] / found["traces"],
                tokens=found["completion_tokens"] / found["traces"],
                correct_tokens=found["mean_tokens"],
            ),
        )
        reached |= {group: found["prompts_solved"] / len(mine) for group in mine}


def _row_prompt_tokens(train: Manifest) -> float | None:
    """Tokens of a student's examples that are not supervised, per row; of cells that imitate traces."""
    others = {"pairs", "match", "rewards"}
    known = train.details.get("cells", {}).values()
    num_cells = sum("supervised_tokens" in cell for cell in known)
    cells = [cell for cell in known if "supervised_tokens" in cell and not others & set(cell)]
    config = train.details.get("config", {}).get("train", {})
    examples = sum(_examples(cell, config, train, num_cells) for cell in cells)
    unsupervised = sum(float(cell["tokens"] - cell["supervised_tokens"]) for cell in cells)
    return unsupervised / examples if examples else None


def _examples(cell: Mapping[str, Any], config: Mapping[str, Any], train: Manifest, num_cells: int) -> float:
    """Rows that a cell trained on. Under `epochs` these are passes over its rows, whose last batch may be short."""
    if config.get("budget", "epochs") == "epochs":
        return float(config.get("num_epochs", 1) * train.rows_out / num_cells)
    return float(cell["steps"] * config.get("batch_size", 1))


class Answers(NamedTuple):
    """Means over all scores of a run."""

    tokens: float
    prompt_tokens: float


def _answers(run_dir: RunDir, recipe: Recipe) -> Answers | None:
    if run_dir.read_manifest(StageName.EVALUATE) is None:
        return None
    columns = ("prompt_tokens", "completion_tokens")
    tables = [
        run_dir.read_table(*benchmark_scores(path.rsplit("/", 2)[1], name), row_type=Score, columns=columns)
        for name in recipe.evaluate.benchmarks
        for path in run_dir.matching(*benchmark_scores("*", name))
    ]
    rows = sum(table.num_rows for table in tables)
    if not rows:
        return None
    sums = [sum(sum(table.column(name).to_pylist()) for table in tables) for name in columns]
    return Answers(sums[1] / rows, sums[0] / rows)


def run_machines(run_dir: RunDir) -> Mapping[str, Any] | None:
    """The machine that a run was done on, by its newest stage that recorded one."""
    for stage in ("evaluate", "train", "generate"):
        manifest = run_dir.read_manifest(stage)
        if manifest and "machine" in manifest.details:
            return dict(manifest.details["machine"])
    return None


def is_same_kind(machine: Mapping[str, Any] | None, machines: Machines) -> bool:
    """Whether times measured on a machine hold on others: the same device, and the same kind of GPU."""
    if machine is None or machine["device"] != machines.device:
        return False
    return machines.device == "cpu" or (machines.gpu is not None and gpu_kind(machine["gpu"]) == machines.gpu)


def measured_nodes(machine: Mapping[str, Any], like: Machines) -> Machines:
    """The measured machine, as one node."""
    memory = max((node.memory_gib for node in like.nodes), default=0.0)
    node = Resources(cpus=machine["cpus"], gpus=machine["gpus"], memory_gib=memory)
    return Machines((node,), like.device, like.gpu_memory_gib, like.gpu)


def calibrate(run_dir: RunDir, inputs: Inputs, source: str) -> Calibration:
    """Calibrate on the run that `inputs` describe, with its own machines and measurements."""
    unit = nominal(inputs.recipe)
    modelled = {stage.stage: stage.seconds for stage in forecast(replace(inputs, calibration=unit)).stages}
    generate, train, evaluate = (run_dir.read_manifest(stage) for stage in ("generate", "train", "evaluate"))
    found = Calibration(source=source, small_s=dict(_small(run_dir, inputs)))
    busy_s = generate.details.get("busy_s") if generate else None
    if generate and busy_s and modelled["generate"]:
        start_s = max(0.0, generate.wall_s - busy_s)
        found = replace(found, generate=busy_s / modelled["generate"], generate_start_s=start_s)
    if train and train.details.get("cells"):
        found = _with_cells(found, train, inputs)
    if evaluate and modelled["evaluate"]:
        found = _with_evaluation(found, evaluate, modelled["evaluate"], inputs)
    return found


def nominal(recipe: Recipe) -> Calibration:
    """All factors 1 and all starts 0: the model that measured times are compared with."""
    names = [student.name for student in recipe.students]
    return Calibration(
        source="nominal",
        generate=1.0,
        generate_start_s=0.0,
        train=dict.fromkeys(names, 1.0),
        cell_s=dict.fromkeys(names, 0.0),
        scorer_start_s=0.0,
        evaluate=1.0,
        evaluate_start_s=0.0,
    )


def _with_cells(found: Calibration, train: Manifest, inputs: Inputs) -> Calibration:
    """Add each student's cells: measured over modelled time of their steps, and their other seconds."""
    cells = train.details["cells"]
    steps: Counter[str] = Counter()
    rest: Counter[str] = Counter()
    modelled: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for one in inputs.plan.cells:
        seconds = cell_seconds(cells.get(one.cell.name, {}))
        if seconds is not None:
            name = one.cell.student.name
            shape = inputs.shapes[one.cell.student.model]
            _add(modelled, name, step_s(one, inputs.work, inputs.recipe, shape, inputs.machines))
            _add(steps, name, seconds.train)
            _add(rest, name, seconds.rest)
            numbers[name] += 1
    found = replace(
        found,
        train={name: steps[name] / modelled[name] for name in numbers},
        cell_s={name: rest[name] / numbers[name] for name in numbers},
    )
    stages = {stage.stage: stage.seconds for stage in forecast(replace(inputs, calibration=found)).stages}
    return replace(found, train_rest_s=max(0.0, train.wall_s - (stages["train"] or train.wall_s)))


def _add(sums: Counter[str], name: str, seconds: float) -> None:
    sums[name] += seconds  # type: ignore[assignment]  # a Counter adds up any number


def _with_evaluation(found: Calibration, evaluate: Manifest, modelled_s: float, inputs: Inputs) -> Calibration:
    """Add the evaluation, if one session gave all answers: one that continued another did not do all of the work."""
    session = evaluate.details.get("this_session", {})
    answers, _ = num_requests(inputs.recipe, inputs.problems)
    if not session.get("ask_s") or session["answers"] < 0.99 * answers:
        return found
    up_and_down = session["start_s"] + session["stop_s"]
    starts = session["engines"] if inputs.machines.device == "cpu" else session["waves"]
    return replace(
        found,
        evaluate=session["ask_s"] / modelled_s,
        evaluate_start_s=up_and_down / starts,
        evaluate_rest_s=max(0.0, evaluate.wall_s - up_and_down - session["ask_s"]),
    )


def _small(run_dir: RunDir, inputs: Inputs) -> Iterator[tuple[str, float]]:
    rows = {"prompts": inputs.work.prompts, "verify": inputs.work.traces, "mix": inputs.work.traces, "report": 0.0}
    for stage, count in rows.items():
        manifest = run_dir.read_manifest(stage)
        if manifest is not None:
            yield stage, max(0.0, manifest.wall_s - count * ROW_S[stage])
