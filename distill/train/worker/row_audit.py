"""What a cell is about to learn, looked at before it learns it: lengths, drops, ends of turns, masked samples.

A student that is never shown the end of a turn writes on until it is cut off, and a loss curve does not tell. So the
rows themselves are looked at, as they go to the model, and such a run is refused.
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

FILE = "audit.json"
NUM_BARS = 10
NUM_SAMPLES = 3
SAMPLE_TOKENS = 400
"""A sample's tokens that are decoded at most: its first and last halves."""


@dataclass(frozen=True)
class MaskedText:
    """A stretch of a row: learnt or only seen."""

    learnt: bool
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
    """What was found in the rows of one cell."""

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
    end_not_learnt: int
    """Rows in which that token is missing from the supervised tokens."""
    after_end: int
    """Supervised tokens behind the last end of turn, over all rows: the student would be taught to write on."""
    nothing_learnt: int
    """Rows without a supervised token."""
    samples: list[Sample] = field(default_factory=list)

    def sentence(self) -> str:
        """The findings in a line."""
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "none"
        return (
            f"{self.rows} rows, {self.supervised_tokens} of {self.tokens} tokens learnt, longest {self.longest} of "
            f"{self.limit}; dropped: {dropped}; each ends in {self.end!r}"
        )


def audit_rows(
    rows: Sequence[TrainRow], dropped: Mapping[str, int], tokenizer: PreTrainedTokenizerBase, *, end: int, limit: int
) -> Audit:
    """Look at rendered rows. `dropped` counts the rows left out, by reason; `end` is the token that ends a turn."""
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
        end_not_learnt=sum(end not in row.labels for row in rows),
        after_end=sum(tokens_after(row.labels, end) for row in rows),
        nothing_learnt=sum(row.supervised_tokens == 0 for row in rows),
        samples=[_sample(row, tokenizer) for row in _spread(rows)],
    )


def length_histogram(lengths: Sequence[int], limit: int) -> list[int]:
    """How many rows lie in each tenth of the limit; the last includes the limit."""
    counts = Counter(min(NUM_BARS - 1, length * NUM_BARS // limit) for length in lengths)
    return [counts[bar] for bar in range(NUM_BARS)]


def tokens_after(labels: Sequence[int], end: int) -> int:
    """Supervised tokens behind the last end of turn; 0 where there is none."""
    last = max((place for place, label in enumerate(labels) if label == end), default=len(labels))
    return sum(label != IGNORED for label in labels[last + 1 :])


def refuse_endless(audit: Audit, cell: str) -> None:
    """Refuse to train a student that could never learn to stop.

    Raises:
        InputError: Rows do not teach the end of the turn, teach tokens behind it, or teach nothing.
    """
    faults = {
        f"do not teach {audit.end!r}, the end of a turn": audit.end_not_learnt,
        "teach nothing": audit.nothing_learnt,
    }
    found = [f"{count} of {audit.rows} rows {fault}" for fault, count in faults.items() if count]
    if audit.after_end:
        found.append(f"{audit.after_end} tokens behind the last {audit.end!r} are taught")
    if found:
        raise InputError(
            f"{cell}: {'; '.join(found)}, so its student would not learn to stop. Give a chat template that ends the "
            f"assistant's turn as `models.NAME.chat_template`; {FILE} of the cell shows rows with their masks."
        )


def _spread(rows: Sequence[TrainRow]) -> list[TrainRow]:
    """A few rows from the shortest to the longest."""
    ordered = sorted(rows, key=lambda row: (len(row.input_ids), row.trace_id))
    places = {round(number * (len(ordered) - 1) / max(1, NUM_SAMPLES - 1)) for number in range(NUM_SAMPLES)}
    return [ordered[place] for place in sorted(places) if ordered]


def _sample(row: TrainRow, tokenizer: PreTrainedTokenizerBase) -> Sample:
    pairs = list(zip(row.input_ids, row.labels, strict=True))
    half = SAMPLE_TOKENS // 2
    parts = [pairs] if len(pairs) <= SAMPLE_TOKENS else [pairs[:half], pairs[-half:]]
    stretches = [stretch for part in parts for stretch in _stretches(part, tokenizer)]
    return Sample(row.trace_id, row.pool, len(pairs), stretches)


def _stretches(pairs: Sequence[tuple[int, int]], tokenizer: PreTrainedTokenizerBase) -> list[MaskedText]:
    """Runs of equal mask, decoded."""
    found: list[MaskedText] = []
    start = 0
    for place in range(1, len(pairs) + 1):
        is_learnt = pairs[start][1] != IGNORED
        if place == len(pairs) or (pairs[place][1] != IGNORED) != is_learnt:
            text = tokenizer.decode([token for token, _ in pairs[start:place]])
            found.append(MaskedText(is_learnt, str(text)))
            start = place
    return found
