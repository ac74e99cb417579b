"""What the driver sends to a training process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from cluster.cpus import has_fast_bf16
from distill.config.objectives import IMITATE, Imitate, Objective, Prefer
from distill.config.students import StudentConfig
from distill.config.train import TrainConfig
from distill.train.layout import Layout

if TYPE_CHECKING:
    from distill.models.resolve import AdapterBase
    from distill.models.shape import ModelShape
    from distill.train.rollouts.plan import RolloutPlan
    from distill.train.rollouts.rounds_plan import RoundsPlan


@dataclass(frozen=True)
class CellJob:
    """Everything that a worker needs, sent to it by pickle."""

    cell: str
    key: str
    run_uri: str
    model_path: str
    shards: tuple[str, ...]
    student: StudentConfig
    train: TrainConfig
    seed: int
    device: Literal["cpu", "gpu"]
    threads: int
    layout: Layout
    num_workers: int
    shape: ModelShape | None = None
    held_out: tuple[str, ...] = ()
    base: AdapterBase | None = None
    objective: Objective = IMITATE
    """What is learnt from the rows."""
    mode_weight: float = 1.0
    """Weight in the loss of each token of a mode's line; every other token has 1."""
    adapter_path: str = ""
    """Address of the adapter that is trained on; empty: a new one, or none."""
    rollouts: RolloutPlan | None = None
    """Of a cell that matches its teachers."""
    rounds: RoundsPlan | None = None
    """Of a cell that is rewarded for its own answers."""

    @property
    def peak_learning_rate(self) -> float:
        """The arm's own, or the student's."""
        own = None if isinstance(self.objective, Imitate) else self.objective.learning_rate
        return own or self.student.tune.learning_rate

    @property
    def rows_per_example(self) -> int:
        """Rows that are drawn, dropped and counted in a batch together: the two of a pair."""
        return 2 if isinstance(self.objective, Prefer) else 1

    @property
    def has_dropout(self) -> bool:
        """Whether the student is trained with its dropout: weights that come from another pass rule it out."""
        return isinstance(self.objective, Imitate)

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and gradients."""
        return torch.bfloat16 if self.device == "gpu" else torch.float32

    @property
    def is_mixed(self) -> bool:
        """Whether matrix products are in bf16 with fp32 weights: on CPUs that have instructions for it."""
        return self.device == "cpu" and has_fast_bf16()

    @property
    def precision(self) -> str:
        """In words, for the manifest."""
        return "bf16 products, fp32 weights" if self.is_mixed else str(self.dtype).removeprefix("torch.")
