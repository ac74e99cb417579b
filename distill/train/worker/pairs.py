"""Log-probabilities of pairs: the student's before each step, and once those of the weights that it starts from.

Both come from the engine that trains, never from one that generates: the same kernels, precision and sharding, also
where no single device holds the model. So the margins of a first step are zero but for rounding.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist

from distill.core.run_dir import RunDir, Training
from distill.train.worker.batches import TrainRow
from distill.train.worker.loss import MicroTensors, sums_by
from distill.train.worker.objectives import PairSums
from distill.train.worker.process import rank

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

REFERENCE_FILE = "reference.parquet"


# Producer and consumer: the training process of an arm with pairs; read again where it resumes.
@dataclass(frozen=True)
class ReferenceScore:
    """A row under the weights that its arm starts from."""

    trace_id: str
    num_tokens: int
    """Learnt tokens."""
    nll: float
    """Their summed negative log-likelihood, nats."""


class MicroBatch(NamedTuple):
    """One forward pass of this worker."""

    tensors: MicroTensors
    rows: Sequence[int]
    """The cell's rows in it, by number."""
    is_last: bool
    """Of its optimiser step."""


def scored(engine: "DeepSpeedEngine", micros: Iterable[MicroBatch]) -> Iterator[tuple[MicroBatch, torch.Tensor]]:
    """Every micro-batch with the losses of its tokens under the weights as they are, [n], nats. Changes no weight.

    To be read to its end: only then the engine is set to train again.
    """
    engine.eval()
    for micro in micros:
        with torch.no_grad():
            _, losses = engine(**micro.tensors.inputs)
        yield micro, losses
    engine.train()


def mean_nll(engine: "DeepSpeedEngine", micros: Iterable[MicroBatch], rows: Sequence[int]) -> torch.Tensor:
    """[rows] in fp64: negative log-likelihood per learnt token of each row, nats; the same on every worker.

    Changes no weight. A row may be in several micro-batches: a step may hold it twice.

    Args:
        engine: with the weights as they are now.
        micros: of this worker.
        rows: those in the micro-batches of all workers, each once.
    """
    place = {row: number for number, row in enumerate(rows)}
    table = torch.zeros(len(rows), 2, dtype=torch.double, device=engine.device)
    for micro, losses in scored(engine, micros):
        table += sums_by(of_tokens([place[row] for row in micro.rows], micro), losses, len(rows))
    dist.all_reduce(table)
    return table[:, 0] / table[:, 1]


def of_tokens(of_rows: Sequence[Any], micro: MicroBatch) -> torch.Tensor:
    """[n]: for every token that counts the value of its row; `of_rows`: one per row of the micro-batch."""
    row_of = micro.tensors.row_of
    if not of_rows:
        return row_of  # a worker without rows: no token counts
    return torch.tensor(of_rows, device=row_of.device)[row_of]


def pair_sums(
    engine: "DeepSpeedEngine", micros: Iterable[MicroBatch], batch: Sequence[int], rows: Sequence[TrainRow],
    reference: Sequence[float],
) -> PairSums:  # fmt: skip
    """The pairs of a step, by the student as it is now and by the reference.

    Args:
        engine: with the student's weights.
        micros: of this worker in the step.
        batch: the step's rows by number, chosen and rejected in turn.
        rows: of the cell.
        reference: negative log-likelihood of each of them, nats.
    """
    distinct = sorted(set(batch))
    means: Mapping[int, float] = dict(zip(distinct, mean_nll(engine, micros, distinct).tolist(), strict=True))
    tokens = [rows[row].supervised_tokens for row in batch]
    columns = [means[row] * count for row, count in zip(batch, tokens, strict=True)], [reference[row] for row in batch]
    made = [torch.tensor(column, dtype=torch.double).view(-1, 2) for column in (*columns, tokens)]
    return PairSums(*made)


def reference_scores(
    engine: "DeepSpeedEngine", micros: Iterable[MicroBatch], rows: Sequence[TrainRow], run_dir: RunDir, cell: str
) -> list[float]:
    """Negative log-likelihood of every row of a cell, nats, with the weights as they are now; where an earlier attempt
    has stored it, that.

    `micros`: of this worker, over all rows.
    """
    shared: list[Any] = [read_reference(run_dir, cell, rows) if rank() == 0 else None]
    dist.broadcast_object_list(shared)
    if shared[0] is None:
        means = mean_nll(engine, micros, range(len(rows))).tolist()
        shared = [write_reference(run_dir, cell, rows, means) if rank() == 0 else None]
        dist.broadcast_object_list(shared)
    return list(shared[0])


def read_reference(run_dir: RunDir, cell: str, rows: Sequence[TrainRow]) -> list[float] | None:
    """Stored negative log-likelihoods of a cell's rows, nats; None where they are not all there."""
    table = run_dir.read_table(*Training(cell).file(REFERENCE_FILE), row_type=ReferenceScore)
    stored = dict(zip(table.column("trace_id").to_pylist(), table.column("nll").to_pylist(), strict=True))
    return [stored[row.trace_id] for row in rows] if all(row.trace_id in stored for row in rows) else None


def write_reference(run_dir: RunDir, cell: str, rows: Sequence[TrainRow], means: Sequence[float]) -> list[float]:
    """Store the reference's scores; `means`: negative log-likelihood per learnt token of each row. Returns the sums."""
    scores = [
        ReferenceScore(row.trace_id, row.supervised_tokens, mean * row.supervised_tokens)
        for row, mean in zip(rows, means, strict=True)
    ]
    run_dir.write_rows(scores, ReferenceScore, *Training(cell).file(REFERENCE_FILE))
    return [score.nll for score in scores]
