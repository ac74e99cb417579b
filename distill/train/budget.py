"""The optimiser budget of a cell: how many steps it takes, which rows each holds, and what that costs. Pure, no torch.

FLOPs of training, per token: 6 for each weight of the layers and 12 x layers x width x length for attention (PaLM,
Chowdhery et al. 2022, appendix B, which counts the whole score matrix; Kaplan et al. 2020, table 1), a third of it
forward and two thirds backward. An adapter leaves out the gradients of the frozen weights: 4 instead of 6 for those.
The output layer only sees supervised tokens. Recomputation is not counted: it is time, not progress.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from distill.config.students import LoraTune
from distill.core.errors import StageError
from distill.core.schema import seed_for
from distill.train.worker.batches import (
    TrainRow,
    epoch_order,
    phased_order,
    phased_step_rows,
    step_rows,
    steps_per_epoch,
)

if TYPE_CHECKING:
    from distill.config.students import Tune
    from distill.config.train import TrainConfig
    from distill.models.shape import ModelShape


def num_steps(train: TrainConfig, num_rows: int) -> int:
    """Optimiser steps of a cell with so many rows."""
    if train.budget == "epochs" or train.num_steps is None:
        return train.num_epochs * steps_per_epoch(num_rows, train.batch_size)
    return train.num_steps


class StepOrder:
    """Which rows of a cell each optimiser step takes; rows that belong together are drawn as one example."""

    def __init__(self, train: TrainConfig, rows: Sequence[TrainRow], *, seed: int, together: int = 1) -> None:
        """`together`: rows in an example, one after another: 2 for pairs."""
        examples = [rows[start : start + together] for start in range(0, len(rows), together)]
        phases = [example[0].phase for example in examples]
        supervised = [sum(row.supervised_tokens for row in example) for example in examples]
        self.num_steps = num_steps(train, len(examples))
        self._num_examples, self._together = len(examples), together
        self._batch_size, self._seed = train.batch_size, seed
        self._budgeted = budget_rows(train, supervised, phases, seed=seed)
        is_phased = len(set(phases)) > 1
        self._phased = phased_order(phases, seed=seed, num_epochs=train.num_epochs) if is_phased else []

    def rows(self, step: int) -> tuple[int, ...]:
        """The rows of a step (counted from 0) over all workers, by number; those of an example are neighbours."""
        width = self._together
        return tuple(row for one in self._examples(step) for row in range(one * width, (one + 1) * width))

    def _examples(self, step: int) -> tuple[int, ...]:
        num, size = self._num_examples, self._batch_size
        if self._budgeted is not None:
            return self._budgeted[step]
        if self._phased:
            return phased_step_rows(step, self._phased, num_rows=num, batch_size=size)
        return step_rows(step, num, batch_size=size, seed=self._seed)


def num_passes(train: TrainConfig, num_rows: int, supervised_tokens: int) -> float:
    """Passes of a cell over its rows; `supervised_tokens`: of all rows together."""
    if train.budget == "steps" and train.num_steps is not None:
        return train.num_steps * train.batch_size / max(1, num_rows)
    if train.budget == "tokens" and train.num_tokens is not None:
        return train.num_tokens / max(1, supervised_tokens)
    return float(train.num_epochs)


def budget_rows(
    train: TrainConfig, tokens: Sequence[int], phases: Sequence[int], *, seed: int
) -> list[tuple[int, ...]] | None:
    """The rows of every step under the budgets `steps` and `tokens`; None under `epochs`, whose steps are passes.

    Args:
        train: the budget.
        tokens: supervised tokens of each row.
        phases: phase of each row; each phase gets its share of the budget, the lower first.
        seed: the cell's.
    """
    if train.budget == "epochs" or train.num_steps is None:
        return None
    if train.budget == "steps":
        rows = train.num_steps * train.batch_size
        drawn = _drawn_rows(phases, [1] * len(tokens), rows, seed)
        return [tuple(drawn[start : start + train.batch_size]) for start in range(0, rows, train.batch_size)]
    assert train.num_tokens is not None, "checked when the recipe was read"
    return _split_by_tokens(_drawn_rows(phases, tokens, train.num_tokens, seed), tokens, train.num_steps)


def _drawn_rows(phases: Sequence[int], weights: Sequence[int], budget: int, seed: int) -> list[int]:
    """Rows in the order of training until their weights reach the budget."""
    drawn: list[int] = []
    total, spent, due = sum(weights), 0, 0.0
    is_phased = len(set(phases)) > 1
    for phase in sorted(set(phases)):
        rows = [row for row, its_phase in enumerate(phases) if its_phase == phase]
        due += budget * sum(weights[row] for row in rows) / total
        stream = _endless_passes(rows, seed, phase if is_phased else None)
        while spent < round(due):
            row = next(stream)
            drawn.append(row)
            spent += weights[row]
    return drawn


def _endless_passes(rows: Sequence[int], seed: int, phase: int | None) -> Iterator[int]:
    """Pass after pass over some rows, each shuffled differently."""
    epoch = 0
    while True:
        if phase is None:
            yield from (rows[index] for index in epoch_order(len(rows), seed=seed, epoch=epoch))
        else:
            shuffled = list(rows)
            random.Random(seed_for("order", seed, epoch, phase)).shuffle(shuffled)
            yield from shuffled
        epoch += 1


def _split_by_tokens(drawn: Sequence[int], tokens: Sequence[int], steps: int) -> list[tuple[int, ...]]:
    """Rows split into steps of about equally many tokens, none empty."""
    if len(drawn) < steps:
        raise StageError(
            f"train.num_tokens is too small: {len(drawn)} rows make up the budget, too few for {steps} steps "
            "-> raise train.num_tokens or lower train.num_steps"
        )
    ends = list(accumulate(tokens[row] for row in drawn))
    starts = [0]
    for step in range(1, steps):
        nearest = bisect_left(ends, ends[-1] * step / steps) + 1
        starts.append(min(max(nearest, starts[-1] + 1), len(drawn) - (steps - step)))
    return [tuple(drawn[start:end]) for start, end in pairwise([*starts, len(drawn)])]


# Cost


def score_flops(shape: ModelShape, lengths: Iterable[int], supervised_tokens: int) -> float:
    """FLOPs of one forward pass over rows of these lengths (tokens), without gradients."""
    tokens, squares = _sums(lengths)
    return float(
        2 * tokens * shape.body_parameters
        + 4 * shape.layers * shape.query_width * squares
        + 2 * shape.head_parameters * supervised_tokens
    )


def _sums(lengths: Iterable[int]) -> tuple[int, int]:
    """The sum of some lengths, and that of their squares."""
    tokens = squares = 0
    for length in lengths:
        tokens += length
        squares += length * length
    return tokens, squares


def train_flops(shape: ModelShape, tune: Tune, lengths: Iterable[int], supervised_tokens: int) -> float:
    """FLOPs of training once on rows of these lengths (tokens); the formula is in the module's docstring."""
    tokens, squares = _sums(lengths)
    per_weight, adapter = 6, 0
    if isinstance(tune, LoraTune):
        per_weight, adapter = 4, 6 * shape.lora_parameters(tune)
    return float(
        tokens * (per_weight * shape.body_parameters + adapter)
        + 12 * shape.layers * shape.query_width * squares
        + per_weight * shape.head_parameters * supervised_tokens
    )
