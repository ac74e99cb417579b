"""A cell's rows: read from the mix's shards and rendered with the student's own template; too long ones are dropped."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq

from distill.core.run_dir import StageName
from distill.core.schema import Dropped, Example, arrow_schema, dropped
from distill.models.chat_template import Rendered, render_example
from distill.models.template_options import read_options
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
    """Read and render the cell's examples, and the held-out ones."""
    kept, drops = _rendered(job, job.shards, run_dir, tokenizer)
    # A held-out row that does not fit is not measured: the filters let only fitting traces through.
    held_out, _ = _rendered(job, job.held_out, run_dir, tokenizer)
    return Rows(kept, drops, tuple(sorted({row.pool for row in [*kept, *held_out]})), held_out)


def _rendered(
    job: CellJob, shards: Sequence[str], run_dir: RunDir, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[TrainRow], list[Dropped]]:
    schema = arrow_schema(Example)
    examples: list[dict[str, Any]] = []
    for shard in shards:
        examples += pq.read_table(shard, filesystem=run_dir.fs, columns=schema.names).cast(schema).to_pylist()
    kept: list[TrainRow] = []
    drops: list[Dropped] = []
    for example in examples:
        options = read_options(example["template_options"])
        rendered = render_example(
            tokenizer, example["messages"] or [], job.train.max_length, options, given=example["given"]
        )
        if isinstance(rendered, str):
            drops.append(dropped(StageName.TRAIN, job.cell, rendered, row=example))
        else:
            kept.append(_compact(example, rendered))
    return kept, drops


def _compact(example: Mapping[str, Any], rendered: Rendered) -> TrainRow:
    # Lists of Python integers would take ten times the memory.
    ids, labels = (array("i", values) for values in rendered)
    return TrainRow(example["trace_id"], example["pool"], ids, labels, phase=example["phase"])
