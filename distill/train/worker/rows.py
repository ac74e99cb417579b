"""A cell's rows: read from the mix's shards and rendered with the student's own template; too long ones are dropped."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq

from distill.config.objectives import Match, Reinforce
from distill.core.errors import StageError
from distill.core.run_dir import StageName
from distill.core.schema import Dropped, Example, arrow_schema, dropped, with_defaults
from distill.models.chat_template import IGNORED, TOO_LONG, Rendered, encode, opening_tokens, render_row
from distill.train.rollouts.write import read_examples, student_prompt
from distill.train.worker.batches import TrainRow
from distill.train.worker.match import OwnToken, load_answers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.core.run_dir import RunDir
    from distill.train.worker.job import CellJob

SIDES = {1: [""], 2: ["chosen", "rejected"]}
"""`Example.side` of rows that belong together, by their number."""


class Rows(NamedTuple):
    """The rendered rows of a cell and what was dropped."""

    kept: list[TrainRow]
    """Of an arm with pairs, chosen and rejected in turn."""
    drops: list[Dropped]
    pools: tuple[str, ...]
    held_out: list[TrainRow]
    own: Mapping[str, OwnToken] = {}
    """Row -> its tokens, of a cell that matches its teachers on the student's answers."""

    @property
    def reasons(self) -> dict[str, int]:
        """Drops by reason."""
        return dict(Counter(drop.reason for drop in self.drops))


def load_rows(job: CellJob, run_dir: RunDir, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """Read and render the cell's examples, and the held-out ones."""
    own: Mapping[str, OwnToken] = {}
    if isinstance(job.objective, Match) and job.rollouts:
        answers = load_answers(
            *(run_dir, job.cell, job.shards[0], job.rollouts, tokenizer),
            max_length=job.train.max_length,
            first_tokens=job.objective.first_tokens,
        )
        kept, drops, own = answers
    elif isinstance(job.objective, Reinforce):
        kept, drops = _prompts(job, job.objective, run_dir, tokenizer)
    else:
        kept, drops = _rendered(job, job.shards, run_dir, tokenizer, job.rows_per_example)
    # A held-out row that does not fit is not measured: the filters let only fitting traces through.
    held_out, _ = _rendered(job, job.held_out, run_dir, tokenizer)
    return Rows(kept, drops, tuple(sorted({row.pool for row in [*kept, *held_out]})), held_out, own)


def _rendered(
    job: CellJob, shards: Sequence[str], run_dir: RunDir, tokenizer: PreTrainedTokenizerBase, together: int = 1
) -> tuple[list[TrainRow], list[Dropped]]:
    """Rows in the order of the files, and what was dropped. `together`: rows of which none is kept without the others,
    the two of a pair."""
    schema = arrow_schema(Example)
    examples: list[dict[str, Any]] = []
    for shard in shards:
        table = with_defaults(pq.read_table(shard, filesystem=run_dir.fs), Example, schema.names)
        examples += table.select(schema.names).cast(schema).to_pylist()
    if [example["side"] for example in examples] != SIDES[together] * (len(examples) // together):
        raise StageError(f"{job.cell}: its rows and its objective ({job.objective.kind}) do not go together")
    kept: list[TrainRow] = []
    drops: list[Dropped] = []
    for start in range(0, len(examples), together):
        group = examples[start : start + together]
        rendered = [render_row(tokenizer, example, job.train.max_length) for example in group]
        refusal = next((one for one in rendered if isinstance(one, str)), "")
        for example, one in zip(group, rendered, strict=True):
            if isinstance(one, Rendered) and not refusal:
                kept.append(_compact(example, one, tokenizer))
            else:
                reason = one if isinstance(one, str) else f"other_side_{refusal}"
                drops.append(dropped(StageName.TRAIN, job.cell, reason, row=example))
    return kept, drops


def _prompts(
    job: CellJob, objective: Reinforce, run_dir: RunDir, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[TrainRow], list[Dropped]]:
    """The prompts of the rows, of which nothing is learnt, and those that leave no room for a longest answer."""
    kept: list[TrainRow] = []
    drops: list[Dropped] = []
    assert job.rounds is not None, "cells with rewards have a plan"
    longest = min(job.train.max_length, job.rounds.engine.max_model_len)
    for example in read_examples(run_dir, job.shards[0]):
        tokens = student_prompt(tokenizer, example)
        if len(tokens) + objective.max_tokens > longest:
            drops.append(dropped(StageName.TRAIN, job.cell, TOO_LONG, row=example))
        else:
            row = TrainRow(example["trace_id"], example["pool"], tokens, [IGNORED] * len(tokens), example["phase"])
            kept.append(row)
    return kept, drops


def _compact(example: Mapping[str, Any], rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> TrainRow:
    # Lists of Python integers would take ten times the memory.
    ids, labels = (array("i", values) for values in rendered)
    opening = example["messages"][-1]["content"][: example["opening"]]
    mode_tokens = 0
    if opening:
        # A tokenizer that does not give back what it was given writes the opening in as many tokens as alone.
        learnt = [token for token in rendered.labels if token != IGNORED]
        mode_tokens = opening_tokens(tokenizer, learnt, [opening]) or len(encode(tokenizer, opening))
    return TrainRow(example["trace_id"], example["pool"], ids, labels, example["phase"], mode_tokens)
