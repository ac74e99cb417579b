"""The cells of a recipe: one per student, arm and seed, each trained (or merged) by itself, some from others' weights.

`RUN/train/CELL/` holds `model/`, `adapter/` (LoRA), `metrics.jsonl`, `attempts.jsonl`, the workers' logs and the
manifest, written last. `distill.train.train_cell` trains one, `distill.train.cell_queue` all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from distill.config.arm_graph import ArmBudget, arm_budgets, own_steps
from distill.config.mix import MergeConfig
from distill.config.objectives import IMITATE
from distill.config.passes import cell_name
from distill.train.layout import Layout, resolve_layout

if TYPE_CHECKING:
    from distill.config.arm_graph import ArmConfig
    from distill.config.objectives import Objective
    from distill.config.recipe import Recipe
    from distill.config.students import StudentConfig
    from distill.config.train import TrainConfig
    from distill.models.resolve import AdapterBase
    from distill.models.shape import ModelShape
    from distill.train.rollouts.plan import RolloutPlan
    from distill.train.rollouts.rounds_plan import RoundsPlan


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
    num_steps: int | None = None
    """Its arm's own number of optimiser steps; absent: as for every arm."""
    amount: ArmBudget = field(default_factory=ArmBudget)
    """How much its arm is trained on: only those of the same amount are compared."""
    objective: Objective = IMITATE
    """What is learnt from the rows."""
    mode_weight: float = 1.0
    """Weight in the loss of each token of a mode's line that the student writes itself."""
    parents: tuple[Cell, ...] = ()
    """The cells that it starts from: that of the arm which its own comes `after`, or those that it is merged from."""

    def budget(self, train: TrainConfig) -> TrainConfig:
        """The recipe's section as it applies to this cell."""
        return train.with_steps(self.num_steps)

    @property
    def lineage(self) -> tuple[Cell, ...]:
        """All cells that its weights come from, each once, parents first; the last is the cell itself."""
        before = dict.fromkeys(cell for parent in self.parents for cell in parent.lineage)
        return (*before, self)

    @property
    def base(self) -> Cell | None:
        """The merged cell whose whole weights an adapter of this one is trained on; None: the untouched student's."""
        if self.merge:
            return self
        return self.parents[0].base if self.parents else None

    @property
    def has_adapter(self) -> bool:
        """Whether its weights are the untouched student's with one adapter: so it is served beside it."""
        return self.student.tune.kind == "lora" and self.base is None


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
    adapter_path: str = ""
    """The parent's adapter, which is trained on; empty: a new one, or none."""
    base: AdapterBase | None = None
    """What its adapter names as its base model; absent: the model's folder."""
    layout: Layout | None = None
    """How it is laid out on its workers; absent: as its student sets it."""
    num_workers: int | None = None
    """Absent: as its student sets it."""
    shape: ModelShape | None = None
    """Sizes of the model, for FLOPs; absent: none are counted."""
    rollouts: RolloutPlan | None = None
    """Of a cell that matches its teachers: who writes and scores its rows."""
    rounds: RoundsPlan | None = None
    """Of a cell that is rewarded for its own answers."""
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
    return tuple(cell for cell in all_cells(recipe) if cell.merge is None)


def all_cells(recipe: Recipe) -> tuple[Cell, ...]:
    """Trained, then merged cells: what is evaluated and served."""
    arms, budgets = recipe.arm_configs, arm_budgets(recipe.mixes, recipe.merges)

    def build(student: StudentConfig, arm: ArmConfig, seed: int) -> Cell:
        merge = arm if isinstance(arm, MergeConfig) else None
        return Cell(
            cell_name(recipe, student.name, arm.name, seed),
            student,
            arm.name,
            seed,
            merge,
            num_steps=None if isinstance(arm, MergeConfig) else own_steps(arm, arms, recipe.train.num_steps),
            amount=budgets[arm.name],
            objective=IMITATE if isinstance(arm, MergeConfig) else arm.objective or IMITATE,
            mode_weight=1.0 if isinstance(arm, MergeConfig) or arm.mode_weight is None else arm.mode_weight,
            parents=tuple(build(student, arms[name], seed) for name in arm.starts_from),
        )

    def of_kind(made: Sequence[ArmConfig]) -> Iterator[Cell]:
        for student, arm, seed in product(recipe.students, made, recipe.train.seeds):
            if recipe.takes(student.name, arm.name):
                yield build(student, arm, seed)

    return (*of_kind(recipe.mixes), *of_kind(recipe.merges))


def trained_before(cell: Cell) -> tuple[str, ...]:
    """The nearest trained cells that a cell's weights come from: through merges, which take no time to speak of."""
    near = [(trained_before(parent) if parent.merge else (parent.name,)) for parent in cell.parents]
    return tuple(dict.fromkeys(name for names in near for name in names))


def num_at_once(cells: Sequence[Cell], max_parallel: int | None) -> int:
    """About how many cells can run at the same time: the most of one generation, since a cell waits for its parents."""
    names = {cell.name for cell in cells}
    most = max(Counter(_generation(cell, names) for cell in cells).values(), default=1)
    return min(most, max_parallel or most)


def _generation(cell: Cell, names: set[str]) -> int:
    """How many of the named cells are trained one after another up to this one."""
    return max((_generation(parent, names) for parent in cell.parents), default=0) + (cell.name in names)
