"""The audit of a cell's rows before it trains."""

import pytest

from distill.core.errors import InputError
from distill.models.chat_template import IGNORED, end_of_turn, render_example
from distill.train.worker.batches import TrainRow
from distill.train.worker.row_audit import (
    Audit,
    MaskedText,
    audit_rows,
    length_histogram,
    require_end_of_turn,
    tokens_after,
)
from tests.fixtures.tiny_models import build_tokenizer

TOKENIZER = build_tokenizer()
END = end_of_turn(TOKENIZER)[-1]


def rendered(answer: str) -> TrainRow:
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": answer}]
    row = render_example(TOKENIZER, turns, 200)
    assert not isinstance(row, str)
    return TrainRow(f"t-{answer}", "pool", row.input_ids, row.labels)


def audit(*rows: TrainRow, dropped: dict[str, int] | None = None) -> Audit:
    return audit_rows(rows, dropped or {}, TOKENIZER, end=END, limit=200)


def test_a_sound_cell_is_reported_in_a_line_and_accepted() -> None:
    found = audit(rendered("2"), rendered("It is 2."), dropped={"too_long": 1})
    require_end_of_turn(found, "cell")
    assert (found.rows, found.dropped_share, found.rows_without_end, found.tokens_after_end) == (2, 0.3333, 0, 0)
    assert found.supervised_tokens == len("2") + len("It is 2.") + 2
    assert "2 rows, 11 of" in found.sentence() and "1 too_long" in found.sentence()
    assert "<|im_end|>" in found.sentence()


def test_samples_show_what_is_seen_and_what_is_supervised() -> None:
    (sample,) = audit(rendered("2")).samples
    seen, supervised = sample.stretches
    assert not seen.is_supervised and seen.text.endswith("1+1?<|im_end|>\n<|im_start|>assistant\n")
    assert supervised == MaskedText(True, "2<|im_end|>")


def test_samples_reach_from_the_shortest_to_the_longest_row_and_long_ones_are_shown_by_their_ends() -> None:
    rows = [rendered("2" * length) for length in (1, 2, 3, 4, 5)]
    assert [sample.trace_id for sample in audit(*rows).samples] == ["t-2", "t-222", "t-22222"]
    long = TrainRow("t", "p", list(range(4, 104)) * 6, [IGNORED] * 599 + [END])
    assert sum(len(stretch.text) for stretch in audit(long).samples[0].stretches) < 450


def cut(row: TrainRow) -> TrainRow:
    return TrainRow(row.trace_id, row.pool, row.input_ids[:-1], row.labels[:-1])


def test_a_student_that_would_never_be_taught_the_end_of_a_turn_is_refused() -> None:
    what = r"cell: 1 of 2 rows do not supervise '<\|im_end\|>'.*models\.NAME\.chat_template"
    with pytest.raises(InputError, match=what):
        require_end_of_turn(audit(rendered("2"), cut(rendered("3"))), "cell")


def test_an_end_that_is_seen_but_masked_out_of_the_loss_does_not_count() -> None:
    row = rendered("2")
    masked = TrainRow("t", "p", row.input_ids, [*row.labels[:-1], IGNORED])
    assert audit(masked).rows_without_end == 1


def test_supervised_tokens_after_the_end_are_refused() -> None:
    row = rendered("2")
    longer = TrainRow("t", "p", [*row.input_ids, 5, 6], [*row.labels, 5, 6])
    with pytest.raises(InputError, match="2 tokens after the last"):
        require_end_of_turn(audit(longer), "cell")


def test_a_row_without_supervised_tokens_is_refused() -> None:
    row = rendered("2")
    with pytest.raises(InputError, match="1 of 1 rows have no supervised token"):
        require_end_of_turn(audit(TrainRow("t", "p", row.input_ids, [IGNORED] * len(row.labels))), "cell")


def test_lengths_are_counted_in_tenths_of_the_limit() -> None:
    assert length_histogram([1, 10, 19, 99, 100], 100) == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert tokens_after([IGNORED, 5, 9, 7, IGNORED, 8], 9) == 2
