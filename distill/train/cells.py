"""The cells of a recipe: one per student, mix and seed, each trained (or merged) by itself.

`RUN/train/CELL/` holds `model/`, `adapter/` (LoRA), `metrics.jsonl`, `attempts.jsonl`, the workers' logs and the
manifest, written last. `distill.train.train_cell` trains one, `distill.train.cell_queue` all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from distill.train.layout import Layout, resolve_layout

if TYPE_CHECKING:
    from distill.config.mix import MergeConfig
    from distill.config.recipe import Recipe
    from distill.config.students import StudentConfig
    from distill.config.train import TrainConfig
    from distill.models.resolve import AdapterBase
    from distill.models.shape import ModelShape


@dataclass(frozen=True)
class Cell:
    """One student to be trained. Evaluation and serving call it by its name."""

    name: str
    student: StudentConfig
    mix: str
    """The arm's name."""
    seed: int
    merge: MergeConfig | None = None
    """How it is merged; absent: it is trained."""
    num_prompts: int | None = None
    """Prompts that its arm teaches; absent: all that are common."""
    num_steps: int | None = None
    """Its arm's own number of optimiser steps; absent: as for every arm."""

    def budget(self, train: TrainConfig) -> TrainConfig:
        """The recipe's section as it applies to this cell."""
        return train.with_steps(self.num_steps)


@dataclass(frozen=True)
class CellWork:
    """A cell with what it is trained from, and the key that its manifest will carry."""

    cell: Cell
    model_path: str
    shards: tuple[str, ...]
    """Parquet files of `Example` rows, as the run directory's file system names them."""
    key: str
    held_out: tuple[str, ...] = ()
    """Files with rows that are not trained on, for the held-out loss."""
    base: AdapterBase | None = None
    """What its adapter names as its base model; absent: the model's folder."""
    layout: Layout | None = None
    """How it is laid out on its workers; absent: as its student sets it."""
    num_workers: int | None = None
    """Absent: as its student sets it."""
    shape: ModelShape | None = None
    """Sizes of the model, for FLOPs; absent: none are counted."""
    cost: float | None = None
    """How long it takes, in a unit that all cells of the queue share; absent: by the bytes of weights and rows."""

    @property
    def resolved_layout(self) -> Layout:
        """The chosen layout, or the student's own."""
        return self.layout or resolve_layout(self.cell.student)

    @property
    def resolved_workers(self) -> int:
        """Number of workers: with borrowed ones, or the student's own."""
        return self.num_workers or self.cell.student.num_workers


def cells(recipe: Recipe) -> tuple[Cell, ...]:
    """All cells of a recipe that are trained."""
    return tuple(
        Cell(
            cell_name(recipe, student.name, mix.name, seed),
            student,
            mix.name,
            seed,
            num_prompts=mix.num_prompts,
            num_steps=mix.num_steps,
        )
        for student, mix, seed in product(recipe.students, recipe.mixes, recipe.train.seeds)
        if recipe.takes(student.name, mix.name)
    )


def merged_cells(recipe: Recipe) -> tuple[Cell, ...]:
    """All cells of a recipe that are merged from trained ones."""
    return tuple(
        Cell(cell_name(recipe, student.name, merge.name, seed), student, merge.name, seed, merge)
        for student, merge, seed in product(recipe.students, recipe.merges, recipe.train.seeds)
        if recipe.takes(student.name, merge.name)
    )


def all_cells(recipe: Recipe) -> tuple[Cell, ...]:
    """Trained and merged cells: what is evaluated and served."""
    return (*cells(recipe), *merged_cells(recipe))


def cell_name(recipe: Recipe, student: str, arm: str, seed: int) -> str:
    """What a cell is called. The seed is part of the name only where there are several."""
    return f"{student}@{arm}" + (f"@{seed}" if len(recipe.train.seeds) > 1 else "")
