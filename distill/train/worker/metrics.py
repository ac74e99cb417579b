"""A cell's `metrics.jsonl`: one line per optimiser step, read by the progress bars and the report."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from distill.core.run_dir import Training

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distill.core.run_dir import RunDir
    from distill.train.attempts import Lease

MIN_INTERVAL_S = 1.0


@dataclass(frozen=True)
class StepMetrics:
    """Measurements of one optimiser step. Steps count from 1."""

    step: int
    num_steps: int
    loss: float
    """Mean over the supervised tokens of the whole optimiser batch; of pairs the objective's mean over the pairs; of
    answers with rewards the clipped surrogate's mean over the tokens."""
    lr: float
    grad_norm: float
    tokens: int
    """Prompt and completion, without padding."""
    supervised_tokens: int
    seconds: float
    tokens_per_s: float = 0.0
    flops: float | None = None
    """Of this step, as `distill.train.budget` counts them; None where the model's shape was not known."""
    mfu: float | None = None
    """Model FLOPs utilisation: share of the devices' peak; None where the peak is not known, always on a CPU."""
    memory_gib: float | None = None
    """Of the first worker: the device's peak so far on a GPU, the process's resident memory on a CPU."""
    pools: Mapping[str, float] = field(default_factory=dict)
    """The same loss over the rows of each pool; none for pairs."""
    pairs: Mapping[str, float] = field(default_factory=dict)
    """Of pairs, means over the batch before the step: `margin` (nats), `positive` (share of positive margins),
    `chosen_nll` and `rejected_nll` (nats per token)."""
    match: Mapping[str, float] = field(default_factory=dict)
    """Where teachers are matched, means over the batch before the step, in nats: `kl` per token, also by thirds of the
    answer (`kl_first`, `kl_middle`, `kl_last`), `drift` since the answers were sampled, and `end`, the log-probability
    of the tokens that end them."""
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Where answers have rewards: of the round that the step is of `reward` (mean), `right` (share of right answers)
    and `mean_tokens`; of the step `clipped`, the share of tokens whose gradient clipping took."""


class MetricsLog:
    """Keeps the lines in memory and rewrites the whole file, so that every reader (and any file system) sees whole
    lines, and a resumed cell drops the steps that it is about to repeat."""

    def __init__(self, run_dir: RunDir, cell: str, *, resume_step: int, lease: Lease) -> None:
        self.lines = [line for line in read_metrics(run_dir, cell) if line.step <= resume_step]
        self._run_dir = run_dir
        self._cell = cell
        self._lease = lease
        self._next_flush = 0.0
        self.flush()

    def add(self, metrics: StepMetrics) -> None:
        """Append a step; the file is written at most once a second, less often where writing is slow."""
        self.lines.append(metrics)
        if time.monotonic() >= self._next_flush:
            self.flush()

    def flush(self) -> None:
        """Write the file now.

        Raises:
            SupersededError: another attempt has claimed the cell.
        """
        self._lease.check()
        started = time.monotonic()
        text = "".join(json.dumps(asdict(line)) + "\n" for line in self.lines)
        self._run_dir.write_bytes(text.encode(), *Training(self._cell).metrics)
        took = time.monotonic() - started
        self._next_flush = started + max(MIN_INTERVAL_S, 50 * took)


LAST_STEPS = 10


def last_means(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of what is measured of pairs or answers, over the last steps of a training; of steps that have it."""
    last = steps[-LAST_STEPS:]
    found = {name: [one[name] for one in last if name in one] for step in last for name in step}
    return {name: sum(values) / len(values) for name, values in found.items()}


def read_metrics(run_dir: RunDir, cell: str) -> list[StepMetrics]:
    """The steps of a cell so far, in order; empty before its first one."""
    return [StepMetrics(**json.loads(line)) for line in run_dir.read_lines(*Training(cell).metrics)]
