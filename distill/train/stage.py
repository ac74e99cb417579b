"""Stage 5: every cell whose examples, student or settings have changed is trained; the others are kept."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.autoscaling import grow_for
from cluster.placement import Job
from distill.config.identity import NOT_OF_CELL, student_identity, train_identity
from distill.core.metrics import publish
from distill.core.progress_bars import bars
from distill.core.run_dir import Manifest
from distill.core.schema import Example, content_hash
from distill.mix.write_arms import HELD_OUT
from distill.run.context import Run
from distill.train.cell_queue import Progress, train_all, train_values
from distill.train.cells import Cell, CellWork, all_cells, cells, merged_cells, worker_resources
from distill.train.early_rows import EARLY, early_part, take_over
from distill.train.layout import Device
from distill.train.machines import connected_machines
from distill.train.merge_students import merge_cell
from distill.train.model_card import write_cards
from distill.train.plan import MixData, mixed_data, plan_cells, resolved_shapes, resources_in_words
from distill.train.worker.rows import example_ids


def train_stage(current: Run) -> Manifest:
    """Train every cell whose examples, student or settings have changed."""
    run_dir, early = current.run_dir, early_part(current)
    works = [_cell_work(cell, current, has_early=early is not None) for cell in cells(current.recipe)]
    todo = [work for work in works if not run_dir.is_complete(work.key, "train", work.cell.name)]
    if len(todo) < len(works):
        current.console.print(f"  {len(works) - len(todo)} of {len(works)} cells are trained already")
    if todo:
        grow_for(
            [least_job(work.cell, current.session.device) for work in todo],
            deadline_s=current.recipe.generate.startup_deadline_s,
            say=lambda text: current.console.print(f"  [dim]{text}[/]"),
        )
        _train(current, planned(current, todo, mixed_data(run_dir)))
    for cell in merged_cells(current.recipe):
        merge_cell(cell, current)
    write_cards(run_dir, current.recipe, all_cells(current.recipe), current.models)
    return _train_manifest(current)


def least_job(cell: Cell, device: Device) -> Job:
    """The least that a cell can run with, before its layout is chosen by the machines that are there."""
    return Job(cell.name, worker_resources(device, 1, cell.student.gpu), cell.student.num_workers)


def _cell_work(cell: Cell, current: Run, *, has_early: bool) -> CellWork:
    path, early_path = (current.run_dir.path(stage, f"{cell.mix}.parquet") for stage in ("mix", EARLY))
    early = example_ids(current.run_dir, early_path) if has_early else []
    if set(early) - set(example_ids(current.run_dir, path)):
        current.console.print(f"  {cell.name}: the first prompts' rows have changed since; begins without them")
        early = []
    key = cell_key(cell, current, "mix", early)
    if early:
        take_over(current.run_dir, cell, key=key, early_key=cell_key(cell, current, EARLY))
    model_path, held_out = current.models[cell.student.model].place, tuple(current.run_dir.shards(HELD_OUT))
    return CellWork(cell, model_path, (path,), key, held_out, early_shards=(early_path,) if early else ())


def cell_key(cell: Cell, current: Run, stage: str, early: Sequence[str] = ()) -> str:
    """What decides a cell's weights: student, seed, settings, and what it is taught, in which order."""
    train = train_identity(current.recipe.train)
    settings = {name: value for name, value in train.items() if name not in NOT_OF_CELL}
    rows = current.run_dir.read_table(stage, f"{cell.mix}.parquet", row_type=Example)
    texts = [[turn["content"] for turn in messages] for messages in rows.column("messages").to_pylist()]
    phases = rows.column("phase").to_pylist()
    taught: list[Any] = [texts, phases] if any(phases) else texts
    model = current.models[cell.student.model].identity
    parts = ["cell", student_identity(cell.student), cell.seed, settings, model, taught]
    return content_hash(*parts, *filter(None, [early]), *([EARLY] if stage == EARLY else []))


def planned(current: Run, works: Sequence[CellWork], data: Mapping[str, MixData]) -> list[CellWork]:
    """The cells with their layouts. All arms are planned, so that unequal ones are refused however few are left."""
    recipe, shapes = current.recipe, resolved_shapes(current.recipe, current.models)
    machines = connected_machines(current.session.device)
    plan = plan_cells(cells(recipe), recipe.train, shapes=shapes, data=data, machines=machines)
    by_name = {one.cell.name: one for one in plan.cells}
    for student in recipe.students:
        one = next(one for one in plan.cells if one.cell.student == student)
        current.console.print(f"  [dim]{student.name}: {resources_in_words(one)}[/]")
    return [
        dataclasses.replace(
            work,
            layout=by_name[work.cell.name].layout,
            shape=shapes[work.cell.student.model],
            cost=by_name[work.cell.name].flops,
        )
        for work in works
    ]


def _train(current: Run, works: Sequence[CellWork]) -> None:
    with bars(current.console) as shown:

        def show(progress: Progress) -> None:
            shown.update(progress.cell, progress.step, progress.num_steps or 1, progress.note)
            publish(current.recipe.name, train_values(progress))

        train_all(
            works,
            train=current.recipe.train,
            run_dir=current.run_dir,
            device=current.session.device,
            report_progress=show,
        )


def _train_manifest(current: Run) -> Manifest:
    """Sums over the cells; a row that one cell drops counts once for that cell."""
    done = {cell.name: current.run_dir.read_manifest("train", cell.name) for cell in all_cells(current.recipe)}
    manifests = {name: manifest for name, manifest in done.items() if manifest is not None}
    drops: Counter[str] = Counter()
    for manifest in manifests.values():
        drops.update(manifest.drops)
    return Manifest(
        stage="train",
        key="",
        rows_in=sum(manifest.rows_in for manifest in manifests.values()),
        rows_out=sum(manifest.rows_out for manifest in manifests.values()),
        drops=dict(drops),
        details={
            "cells": {name: manifest.details for name, manifest in manifests.items()},
            "models": {name: dataclasses.asdict(model) for name, model in current.models.items()},
        },
    )
