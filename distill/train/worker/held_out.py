"""Held-out loss: on traces that no arm teaches, before and after a cell's training, pool by pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from distill.train.worker.batches import TrainRow, micro_batches
from distill.train.worker.loss import row_tensors, sums_by
from distill.train.worker.pairs import MicroBatch, scored
from distill.train.worker.process import rank

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


def held_out_loss(
    engine: DeepSpeedEngine, rows: Sequence[TrainRow], pools: Sequence[str], *, padding: int, max_tokens: int
) -> dict[str, float]:
    """Pool -> mean loss per supervised token, nats; the same on every worker. Changes no weight.

    Args:
        engine: with the weights as they are now.
        rows: of all workers.
        pools: names, of the rows.
        padding: token id for workers without a row.
        max_tokens: of one forward pass.
    """
    if not rows:
        return {}
    table = torch.zeros(len(pools), 2, dtype=torch.double, device=engine.device)
    lengths = [len(row.input_ids) for row in rows]
    batches = micro_batches(
        range(len(rows)), lengths, rank=rank(), num_workers=dist.get_world_size(), max_tokens=max_tokens
    )
    made = (
        MicroBatch(row_tensors([rows[row] for row in batch], pools, padding, engine.device), batch, is_last=False)
        for batch in batches
    )
    for micro, losses in scored(engine, made):
        table += sums_by(micro.tensors.pools, losses, len(pools))
    dist.all_reduce(table)
    return {pool: loss / tokens for pool, (loss, tokens) in zip(pools, table.tolist(), strict=True) if tokens}
