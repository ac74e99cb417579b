"""Which rows each step trains on: pure functions of (number of rows, lengths, seed), no torch.

The order depends on the seed and the epoch only, so that a cell killed at any step continues with the same rows, and
arms with equally many rows take equally many steps.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, TypeVar

from distill.core.schema import seed_for
from distill.models.chat_template import IGNORED


@dataclass(frozen=True)
class TrainRow:
    """A rendered example."""

    trace_id: str
    pool: str
    input_ids: Sequence[int]
    labels: Sequence[int]
    phase: int = 0
    """Rows of a lower phase are trained on first, through all epochs."""
    mode_tokens: int = 0
    """The first of its supervised tokens, those that say the mode, where the student writes it itself."""

    @property
    def supervised_tokens(self) -> int:
        """Tokens that count in the loss. The first token has no predecessor to be predicted from."""
        return sum(label != IGNORED for label in self.labels[1:])


T = TypeVar("T")
R = TypeVar("R")


class Flat(NamedTuple):
    """A packed micro-batch: rows end to end in one sequence."""

    input_ids: list[int]
    """Of every token, as the next one."""
    position_ids: list[int]
    kept: list[int]
    """Places of the tokens whose successor counts in the loss."""
    targets: list[int]
    """These successors."""
    row_lengths: list[int]


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Optimiser steps of one pass; the last one may hold fewer rows."""
    return math.ceil(num_rows / batch_size)


@lru_cache(maxsize=2)
def epoch_order(num_rows: int, *, seed: int, epoch: int) -> tuple[int, ...]:
    """The shuffled rows of one epoch."""
    order = list(range(num_rows))
    random.Random(seed_for("order", seed, epoch)).shuffle(order)
    return tuple(order)


def step_rows(step: int, num_rows: int, *, batch_size: int, seed: int) -> tuple[int, ...]:
    """The rows of one optimiser step (counted from 0), over all workers."""
    epoch, position = divmod(step, steps_per_epoch(num_rows, batch_size))
    start = position * batch_size
    return epoch_order(num_rows, seed=seed, epoch=epoch)[start : start + batch_size]


def phased_order(phases: Sequence[int], *, seed: int, num_epochs: int) -> list[int]:
    """The rows of a whole training: every epoch of phase 0, then every epoch of phase 1, each shuffled anew."""
    order: list[int] = []
    for phase in sorted(set(phases)):
        rows = [row for row, its_phase in enumerate(phases) if its_phase == phase]
        for epoch in range(num_epochs):
            shuffled = list(rows)
            random.Random(seed_for("order", seed, epoch, phase)).shuffle(shuffled)
            order += shuffled
    return order


def phased_step_rows(step: int, order: Sequence[int], *, num_rows: int, batch_size: int) -> tuple[int, ...]:
    """The rows of one optimiser step of a phased training; its steps are as many and as large as without phases."""
    passed, position = divmod(step, steps_per_epoch(num_rows, batch_size))
    start = passed * num_rows + position * batch_size
    return tuple(order[start : min(start + batch_size, (passed + 1) * num_rows)])


def micro_batches(
    rows: Sequence[int], lengths: Sequence[int], *, rank: int, num_workers: int, max_tokens: int
) -> list[list[int]]:
    """One worker's micro-batches of an optimiser step; equally many on every worker, the last ones possibly empty.

    Workers share the step's tokens evenly. A micro-batch holds at most `max_tokens`; a longer row is alone in its own.
    The packing changes neither the rows of a step nor its gradient, a mean over the step's supervised tokens.
    """
    shares = [pack(share, lengths, max_tokens=max_tokens) for share in _shares(rows, lengths, num_workers)]
    num_batches = max(map(len, shares))
    return [*shares[rank], *([] for _ in range(num_batches - len(shares[rank])))]


def _shares(rows: Sequence[int], lengths: Sequence[int], num_workers: int) -> list[list[int]]:
    """Longest row first, each to the worker with the fewest tokens so far."""
    shares: list[list[int]] = [[] for _ in range(num_workers)]
    loads = [0] * num_workers
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        worker = loads.index(min(loads))
        shares[worker].append(row)
        loads[worker] += lengths[row]
    return shares


def pack(rows: Sequence[int], lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """First-fit decreasing bin packing: each row, longest first, into the first bin of `max_tokens` that has room."""
    bins: list[list[int]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        index = next((index for index, left in enumerate(room) if left >= lengths[row]), len(bins))
        if index == len(bins):
            bins.append([])
            room.append(max_tokens)
        bins[index].append(row)
        room[index] -= lengths[row]
    return bins


def flatten(rows: Sequence[TrainRow]) -> Flat:
    """Pack rows into one sequence. The first token of a row has no predecessor to be predicted from."""
    lengths = [len(row.input_ids) for row in rows]
    starts = accumulate(lengths, initial=0)
    supervised = [
        (start + place, label)
        for start, row in zip(starts, rows, strict=False)
        for place, label in enumerate(row.labels[1:])
        if label != IGNORED
    ]
    return Flat(
        input_ids=[token for row in rows for token in row.input_ids],
        position_ids=positions(lengths),
        kept=[place for place, _ in supervised],
        targets=[target for _, target in supervised],
        row_lengths=lengths,
    )


def positions(lengths: Sequence[int]) -> list[int]:
    """Position of every token within its row."""
    return [position for length in lengths for position in range(length)]


def made_ahead(items: Iterable[T], make: Callable[[T], R]) -> Iterator[R]:
    """`make` of every item in order; each is made by a thread while the one before it is in use."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as thread:
        made: Future[R] | None = None
        for item in items:
            following = thread.submit(make, item)
            if made is not None:
                yield made.result()
            made = following
        if made is not None:
            yield made.result()


def learning_rate(step: int, num_steps: int, *, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up, then cosine decay to zero after the last step. Steps count from 0."""
    warmup = round(num_steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, num_steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
