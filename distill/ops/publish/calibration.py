"""The traces that a student is calibrated on before it is quantised: of the arms that it was trained on."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from distill.core.run_dir import RunDir
from distill.mix.export.rows import arm_batches
from distill.mix.seeded_order import order_hash_of
from distill.models.chat_template import Rendered, render_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CALIBRATION_TOKENS = 20_000
SHORTEST_ROW = 8
"""Tokens that a row has at least, with the turns around it: so many rows are enough, and no more are held."""


class Calibration(NamedTuple):
    """Rows of a student's training, prompts and reasoning included."""

    arms: tuple[str, ...]
    """That they are of."""
    rows: tuple[tuple[int, ...], ...]
    """Token ids of each. The last may be cut."""
    pools: tuple[str, ...]
    """Of each row: which teacher's trace it is."""

    @property
    def num_tokens(self) -> int:
        """Of all rows."""
        return sum(map(len, self.rows))

    @property
    def words(self) -> str:
        """`20,000 tokens of 143 verified traces of mix-long (103 short, 40 long)`."""
        pools = ", ".join(f"{count} {pool}" for pool, count in Counter(self.pools).most_common())
        return f"{self.num_tokens:,} tokens of {len(self.rows)} verified traces of {', '.join(self.arms)} ({pools})"


def calibration_rows(
    run_dir: RunDir,
    arms: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    seed: int,
    num_tokens: int = CALIBRATION_TOKENS,
) -> Calibration | None:
    """Rows of the arms as training rendered them, in an order that the seed decides, up to a number of tokens.

    Args:
        run_dir: of the run.
        arms: that the student was trained on. An arm whose rows are gone is passed over.
        tokenizer: of the student.
        max_length: tokens of a row; a longer one was not trained on either.
        seed: of the order.
        num_tokens: at most; the last row is cut there.

    Returns:
        None where none of the arms has a row.
    """
    places = [
        (order_hash_of(row["trace_id"], "calibration", seed), number, index)
        for number, arm in enumerate(arms)
        for index, row in enumerate(_rows(run_dir, arm, ("trace_id", "side")))
        if row["side"] != "rejected"
    ]
    wanted = heapq.nsmallest(num_tokens // SHORTEST_ROW, places)
    examples = {
        (number, index): row
        for number in {number for _, number, _ in wanted}
        for index, row in _wanted(run_dir, arms[number], {index for _, one, index in wanted if one == number})
    }
    found: dict[str, tuple[int, str, tuple[int, ...]]] = {}
    left = num_tokens
    for _, number, index in wanted:
        example = examples[number, index]
        rendered = render_row(tokenizer, example, max_length)
        if left and isinstance(rendered, Rendered) and example["trace_id"] not in found:
            tokens = tuple(rendered.input_ids[:left])
            found[example["trace_id"]] = number, example["pool"], tokens
            left -= len(tokens)
    if not found:
        return None
    numbers, pools, rows = zip(*found.values(), strict=True)
    return Calibration(tuple(arms[number] for number in sorted(set(numbers))), rows, pools)


def _rows(run_dir: RunDir, arm: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    for batch in arm_batches(run_dir, arm, columns):
        yield from batch


def _wanted(run_dir: RunDir, arm: str, indices: set[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((index, row) for index, row in enumerate(_rows(run_dir, arm)) if index in indices)
