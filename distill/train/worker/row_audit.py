"""Audit of a cell's rows before they are trained on: lengths, drops, ends of turns, samples with their loss mask.

A student that is never taught to end its turn generates until it is cut off, and the loss curve does not show that. So
the rows are checked as they go to the model, and a cell that would train such a student is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distill.core.errors import InputError
from distill.models.chat_template import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.train.worker.batches import TrainRow

AUDIT_FILE = "audit.json"
NUM_BARS = 10
NUM_SAMPLES = 3
SAMPLE_TOKENS = 400
"""Tokens of a sample that are decoded at most: half from its beginning, half from its end."""


@dataclass(frozen=True)
class MaskedText:
    """A stretch of a row with one value of the loss mask."""

    is_supervised: bool
    text: str


@dataclass(frozen=True)
class Sample:
    """One row, decoded. Special tokens are written out."""

    trace_id: str
    pool: str
    num_tokens: int
    stretches: list[MaskedText]


@dataclass(frozen=True)
class Audit:
    """Findings of one cell's rows."""

    rows: int
    dropped: Mapping[str, int]
    """Rows left out, by reason."""
    dropped_share: float
    tokens: int
    supervised_tokens: int
    longest: int
    limit: int
    """`train.max_length`, tokens."""
    histogram: list[int]
    """Rows by length, in tenths of the limit."""
    end: str
    """The token that ends a turn, as text."""
    rows_without_end: int
    """Rows in which that token is not among the supervised ones."""
    tokens_after_end: int
    """Supervised tokens after the last end of turn, over all rows: they would teach the student to go on."""
    rows_without_supervision: int
    """Rows without a supervised token."""
    samples: list[Sample] = field(default_factory=list)

    def sentence(self) -> str:
        """The findings in a line."""
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "none"
        return (
            f"{self.rows} rows, {self.supervised_tokens} of {self.tokens} tokens supervised, longest {self.longest} of "
            f"{self.limit}; dropped: {dropped}; end of turn: {self.end!r}"
        )


def audit_rows(
    rows: Sequence[TrainRow], dropped: Mapping[str, int], tokenizer: PreTrainedTokenizerBase, *, end: int, limit: int
) -> Audit:
    """Audit rendered rows. `dropped` counts the rows left out, by reason; `end` is the token that ends a turn."""
    lengths = [len(row.input_ids) for row in rows]
    num_dropped = sum(dropped.values())
    return Audit(
        rows=len(rows),
        dropped=dict(dropped),
        dropped_share=round(num_dropped / max(1, num_dropped + len(rows)), 4),
        tokens=sum(lengths),
        supervised_tokens=sum(row.supervised_tokens for row in rows),
        longest=max(lengths, default=0),
        limit=limit,
        histogram=length_histogram(lengths, limit),
        end=str(tokenizer.decode([end])),
        rows_without_end=sum(end not in row.labels for row in rows),
        tokens_after_end=sum(tokens_after(row.labels, end) for row in rows),
        rows_without_supervision=sum(row.supervised_tokens == 0 for row in rows),
        samples=[_sample(row, tokenizer) for row in _spread(rows)],
    )


def length_histogram(lengths: Sequence[int], limit: int) -> list[int]:
    """Rows per tenth of the limit, by length; the last includes the limit."""
    counts = Counter(min(NUM_BARS - 1, length * NUM_BARS // limit) for length in lengths)
    return [counts[bar] for bar in range(NUM_BARS)]


def tokens_after(labels: Sequence[int], end: int) -> int:
    """Supervised tokens after the last end of turn; 0 where there is none."""
    last = max((index for index, label in enumerate(labels) if label == end), default=len(labels))
    return sum(label != IGNORED for label in labels[last + 1 :])


def require_end_of_turn(audit: Audit, cell: str) -> None:
    """Refuse to train a student that could not learn to end its turn.

    Raises:
        InputError: rows whose end of turn is not supervised, with supervised tokens after it, or without any.
    """
    faults = {
        f"do not supervise {audit.end!r}, the end of a turn": audit.rows_without_end,
        "have no supervised token": audit.rows_without_supervision,
    }
    found = [f"{count} of {audit.rows} rows {fault}" for fault, count in faults.items() if count]
    if audit.tokens_after_end:
        found.append(f"{audit.tokens_after_end} tokens after the last {audit.end!r} are supervised")
    if found:
        raise InputError(
            f"{cell}: {'; '.join(found)}, so its student would not learn to stop. Set `models.NAME.chat_template` to a "
            f"template that ends the assistant's turn; {AUDIT_FILE} of the cell shows rows with their masks."
        )


def _spread(rows: Sequence[TrainRow]) -> list[TrainRow]:
    """A few rows from the shortest to the longest."""
    ordered = sorted(rows, key=lambda row: (len(row.input_ids), row.trace_id))
    indices = {round(number * (len(ordered) - 1) / max(1, NUM_SAMPLES - 1)) for number in range(NUM_SAMPLES)}
    return [ordered[index] for index in sorted(indices) if ordered]


def _sample(row: TrainRow, tokenizer: PreTrainedTokenizerBase) -> Sample:
    pairs = list(zip(row.input_ids, row.labels, strict=True))
    half = SAMPLE_TOKENS // 2
    parts = [pairs] if len(pairs) <= SAMPLE_TOKENS else [pairs[:half], pairs[-half:]]
    stretches = [stretch for part in parts for stretch in _stretches(part, tokenizer)]
    return Sample(row.trace_id, row.pool, len(pairs), stretches)


def _stretches(pairs: Sequence[tuple[int, int]], tokenizer: PreTrainedTokenizerBase) -> list[MaskedText]:
    """Runs of tokens with equal mask, decoded."""
    found: list[MaskedText] = []
    start = 0
    for end in range(1, len(pairs) + 1):
        is_supervised = pairs[start][1] != IGNORED
        if end == len(pairs) or (pairs[end][1] != IGNORED) != is_supervised:
            text = tokenizer.decode([token for token, _ in pairs[start:end]])
            found.append(MaskedText(is_supervised, str(text)))
            start = end
    return found
