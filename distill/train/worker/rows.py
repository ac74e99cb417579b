"""A cell's rows: read from the mix's shards, rendered through the student's own template, too long ones dropped."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq

from distill.core.schema import Dropped, Example, arrow_schema, dropped
from distill.models.chat_template import Rendered, render_example
from distill.train.worker.batches import TrainRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.core.run_dir import RunDir
    from distill.train.worker.job import CellJob


class Rows(NamedTuple):
    """The rendered rows of a cell and what was dropped."""

    kept: list[TrainRow]
    drops: list[Dropped]
    pools: tuple[str, ...]
    held_out: list[TrainRow]

    @property
    def reasons(self) -> dict[str, int]:
        """Drops by reason."""
        return dict(Counter(drop.reason for drop in self.drops))


def load_rows(job: CellJob, run_dir: RunDir, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """Read and render the cell's examples, and those that are only measured."""
    early = {row for shard in job.early_shards for row in example_ids(run_dir, shard)}
    kept, drops = _rendered(job, job.shards, run_dir, tokenizer, early)
    # What does not fit is no part of the measure: the filters let only fitting traces through.
    held_out, _ = _rendered(job, job.held_out, run_dir, tokenizer, set())
    return Rows(kept, drops, tuple(sorted({row.pool for row in [*kept, *held_out]})), held_out)


def _rendered(
    job: CellJob, shards: Sequence[str], run_dir: RunDir, tokenizer: PreTrainedTokenizerBase, early: set[str]
) -> tuple[list[TrainRow], list[Dropped]]:
    schema = arrow_schema(Example)
    examples: list[dict[str, Any]] = []
    for shard in shards:
        examples += pq.read_table(shard, filesystem=run_dir.fs, columns=schema.names).cast(schema).to_pylist()
    kept: list[TrainRow] = []
    drops: list[Dropped] = []
    for example in examples:
        rendered = render_example(tokenizer, example["messages"] or [], job.train.max_length)
        if isinstance(rendered, str):
            drops.append(dropped("train", job.cell, rendered, row=example))
        else:
            kept.append(_compact(example, rendered, is_early=example["trace_id"] in early))
    return kept, drops


def example_ids(run_dir: RunDir, shard: str) -> list[str]:
    """The traces of a file of examples, in its order."""
    ids: list[str] = pq.read_table(shard, filesystem=run_dir.fs, columns=["trace_id"]).column(0).to_pylist()
    return ids


def _compact(example: Mapping[str, Any], rendered: Rendered, *, is_early: bool) -> TrainRow:
    # Lists of Python integers would take ten times the memory.
    ids, labels = (array("i", values) for values in rendered)
    return TrainRow(example["trace_id"], example["pool"], ids, labels, phase=example["phase"], is_early=is_early)
