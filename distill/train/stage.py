"""Stage 6, train: every cell whose examples, student, settings or parents have changed is trained; the others are kept.

mix/ARM.parquet -> layout of every cell -> queue -> Ray Train + DeepSpeed, or a merge -> train/CELL
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from cluster.autoscaling import wait_for_nodes
from cluster.placement import Job
from cluster.session import Session
from distill.config.decides import identity
from distill.config.objectives import IMITATE
from distill.config.recipe import Recipe
from distill.core.errors import StageError
from distill.core.manifest import Manifest
from distill.core.metrics import publish
from distill.core.progress_bars import bars
from distill.core.run_dir import HELD_OUT, RunDir, StageName, Training, arm_examples
from distill.core.schema import Example, content_hash
from distill.models.chat_template import RENDERING_VERSION
from distill.models.resolve import ResolvedModel, adapter_base
from distill.run.context import RunContext
from distill.train.cell_queue import Progress, train_all, train_values
from distill.train.cells import Cell, CellWork, all_cells, cells
from distill.train.layout import Device, worker_resources
from distill.train.machines import connected_machines
from distill.train.merge_students import merge_key
from distill.train.model_card import write_cards
from distill.train.plan import describe_resources, plan_cells, read_mix_data, resolved_shapes
from distill.train.rollouts.rounds_plan import rounds_key, rounds_plan
from distill.train.rollouts.scorers import cell_scorers, rollout_plan, scorers_key
from distill.train.saved_layout import with_saved_layout


def train_stage(run: RunContext) -> Manifest:
    """Train or merge every cell whose examples, student, settings or parents have changed."""
    recipe, run_dir, console, models = run.recipe, run.run_dir, run.console, run.models
    keys = cell_keys(recipe, run_dir, models)
    works = [cell_work(cell, recipe, run_dir, models, keys) for cell in all_cells(recipe)]
    todo = [work for work in works if not run_dir.is_complete(work.key, *Training(work.cell.name).folder)]
    if len(todo) < len(works):
        console.print(f"  {len(works) - len(todo)} of {len(works)} cells are trained already")
    if todo:
        train_cells(todo, recipe, run_dir, models, run.session, console)
    write_cards(run_dir, recipe, all_cells(recipe), models)
    return train_manifest(recipe, run_dir, models)


def cell_work(
    cell: Cell, recipe: Recipe, run_dir: RunDir, models: Mapping[str, ResolvedModel], keys: Mapping[str, str]
) -> CellWork:
    """A cell with the weights that it starts from, its rows and its key."""
    model = models[cell.student.model]
    work = CellWork(cell, model.address, (), keys[cell.name])
    if cell.merge:
        return work
    start = starting_weights(cell, run_dir, model.address, keys)
    return dataclasses.replace(
        work,
        model_path=start.model,
        adapter_path=start.adapter,
        shards=(run_dir.path(*arm_examples(cell.mix)),),
        held_out=tuple(run_dir.shards(*HELD_OUT)),
        base=adapter_base(model, recipe.models[cell.student.model]) if cell.base is None else None,
        rounds=rounds_plan(cell.mix, cell.objective, recipe),
        rollouts=rollout_plan(cell, recipe, models, _parents_model(cell, run_dir, keys)),
    )


def _parents_model(cell: Cell, run_dir: RunDir, keys: Mapping[str, str]) -> str:
    """Address of the whole weights that a cell starts from; empty where these are the untouched student's."""
    return "".join(run_dir.address_of(*Training(one.name).model, version=keys[one.name]) for one in cell.parents)


class StartingWeights(NamedTuple):
    """Addresses of what a cell starts from."""

    model: str
    adapter: str
    """Empty: none, or a new one."""


def starting_weights(cell: Cell, run_dir: RunDir, untouched: str, keys: Mapping[str, str]) -> StartingWeights:
    """The untouched student or the parent's.

    An adapter is trained on, not merged and begun anew: merging would round the first stage's change to the weights'
    precision, and the student would no longer be its base with one adapter. A merged parent has whole weights only.
    """
    if not cell.parents:
        return StartingWeights(untouched, "")
    (parent,) = cell.parents
    model = run_dir.address_of(*Training(parent.name).model, version=keys[parent.name])
    if cell.student.tune.kind == "full" or parent.merge:
        return StartingWeights(model, "")
    base = (
        untouched
        if parent.base is None
        else run_dir.address_of(*Training(parent.base.name).model, version=keys[parent.base.name])
    )
    return StartingWeights(base, run_dir.address_of(*Training(parent.name).adapter, version=keys[parent.name]))


def cell_keys(recipe: Recipe, run_dir: RunDir, models: Mapping[str, ResolvedModel]) -> dict[str, str]:
    """Cell -> key. That of a cell which starts from others contains theirs: where a parent changes, it is redone."""
    keys: dict[str, str] = {}
    for cell in dict.fromkeys(one for last in all_cells(recipe) for one in last.lineage):
        parents = [keys[parent.name] for parent in cell.parents]
        rounds = rounds_key(rounds_plan(cell.mix, cell.objective, recipe))
        scored_by = scorers_key(cell_scorers(cell, recipe, models), recipe.serve.engine) or rounds
        model = models[cell.student.model].identity
        keys[cell.name] = cell_key(cell, recipe, run_dir, model, parents, scored_by)
    return keys


def cell_key(
    cell: Cell,
    recipe: Recipe,
    run_dir: RunDir,
    model_identity: str,
    parents: Sequence[str] = (),
    scored_by: Sequence[Any] = (),
) -> str:
    """Hash of everything that decides a cell's weights: student, seed, settings, its rows in their order, and the keys
    of the cells that it starts from; of a merged cell how it is merged, and the parents' keys; of one that matches its
    teachers or is graded in rounds, what says so (`scored_by`) and whose each row is."""
    if cell.merge:
        return merge_key(cell.merge, parents)
    rows = run_dir.read_table(*arm_examples(cell.mix), row_type=Example)
    texts = [[turn["content"] for turn in messages] for messages in rows.column("messages").to_pylist()]
    phases = rows.column("phase").to_pylist()
    content: list[Any] = [texts, phases] if any(phases) else texts
    given = rows.column("given").to_pylist()
    content = [content, ["given", *given]] if any(given) else content
    options = rows.column("template_options").to_pylist()
    content = [content, options] if any(options) else content
    openings = rows.column("opening").to_pylist()
    content = [content, openings, cell.mode_weight] if any(openings) else content
    if cell.objective != IMITATE:
        content = [content, rows.column("side").to_pylist(), identity(cell.objective)]
    if scored_by:
        content = [content, rows.column("pool").to_pylist(), list(scored_by)]
    settings = [identity(cell.student), cell.seed, identity(cell.budget(recipe.train).used)]
    after = [["after", *parents]] if parents else []
    return content_hash("cell", RENDERING_VERSION, *settings, model_identity, content, *after)


def train_cells(
    todo: Sequence[CellWork],
    recipe: Recipe,
    run_dir: RunDir,
    models: Mapping[str, ResolvedModel],
    session: Session,
    console: Console,
) -> None:
    """Wait for nodes, lay the cells out on them, and train or merge them all."""
    wait_for_nodes(
        [smallest_job(with_saved_layout(work, run_dir), session.device) for work in todo if work.cell.merge is None],
        deadline_s=recipe.generate.startup_deadline_s,
        report=lambda text: console.print(f"  [dim]{text}[/]"),
    )
    trained = [work for work in todo if work.cell.merge is None]
    merged = [work for work in todo if work.cell.merge]
    planned = with_layouts(trained, recipe, run_dir, models, session.device, console) if trained else []
    with bars(console) as shown:

        def show(progress: Progress) -> None:
            shown.update(progress.cell, progress.step, progress.num_steps or 1, progress.message)
            publish(recipe.name, train_values(progress))

        train_all(
            [*planned, *merged],
            train=recipe.train,
            run_dir=run_dir,
            device=session.device,
            report_progress=show,
            deadline_s=recipe.generate.startup_deadline_s,
        )


def smallest_job(work: CellWork, device: Device) -> Job:
    """The least that a cell can run with, before its layout is chosen for the nodes that are there; one that goes on
    from a checkpoint needs the workers that wrote it, borrowed ones too."""
    return Job(work.cell.name, worker_resources(device, 1, work.cell.student.gpu), work.resolved_workers)


def with_layouts(
    works: Sequence[CellWork],
    recipe: Recipe,
    run_dir: RunDir,
    models: Mapping[str, ResolvedModel],
    device: Device,
    console: Console,
) -> list[CellWork]:
    """The cells with their layouts. All arms are planned, also finished ones, so that unequal ones are refused."""
    shapes = resolved_shapes(recipe, models)
    machines = connected_machines(device, {student.gpu for student in recipe.students})
    plan = plan_cells(cells(recipe), recipe.train, shapes=shapes, data=read_mix_data(run_dir), machines=machines)
    by_name = {one.cell.name: one for one in plan.cells}
    for student in recipe.students:
        mine = [one for one in plan.cells if one.cell.student == student]
        for one in mine[:1]:  # none where a later pass trains its first
            console.print(f"  [dim]{student.name}: {describe_resources(one)}[/]")
    return [
        dataclasses.replace(
            work,
            layout=by_name[work.cell.name].layout,
            shape=shapes[work.cell.student.model],
            cost=by_name[work.cell.name].flops,
        )
        for work in works
    ]


def train_manifest(recipe: Recipe, run_dir: RunDir, models: Mapping[str, ResolvedModel]) -> Manifest:
    """Sums over the cells; a row that one cell drops counts once for that cell.

    Raises:
        StageError: a cell is not trained.
    """
    done = {cell.name: run_dir.read_manifest(*Training(cell.name).folder) for cell in all_cells(recipe)}
    manifests = {name: manifest for name, manifest in done.items() if manifest is not None}
    if missing := [name for name in done if name not in manifests]:
        raise StageError(f"{run_dir.uri}: not trained: {', '.join(missing)} -> the same command trains what is missing")
    drops: Counter[str] = Counter()
    for manifest in manifests.values():
        drops.update(manifest.drops)
    return Manifest(
        stage=StageName.TRAIN,
        key="",
        rows_in=sum(manifest.rows_in for manifest in manifests.values()),
        rows_out=sum(manifest.rows_out for manifest in manifests.values()),
        drops=dict(drops),
        details={
            "cells": {name: manifest.details for name, manifest in manifests.items()},
            "models": {name: dataclasses.asdict(model) for name, model in models.items()},
        },
    )
