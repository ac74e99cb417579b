"""The batching plan and the schedule: complete, deterministic, the same for every arm."""

import itertools
import threading

import pytest

from distill.models.chat_template import IGNORED
from distill.train.worker.batches import (
    TrainRow,
    epoch_order,
    flatten,
    learning_rate,
    made_ahead,
    micro_batches,
    pack,
    phased_order,
    phased_step_rows,
    step_rows,
    steps_per_epoch,
)


def test_every_row_is_trained_once_per_epoch() -> None:
    for epoch in range(3):
        steps = range(epoch * steps_per_epoch(50, 16), (epoch + 1) * steps_per_epoch(50, 16))
        rows = [row for step in steps for row in step_rows(step, 50, batch_size=16, seed=1)]
        assert sorted(rows) == list(range(50))


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    assert epoch_order(50, seed=1, epoch=0) == epoch_order(50, seed=1, epoch=0)
    orders = {epoch_order(50, seed=seed, epoch=epoch) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4


@pytest.mark.parametrize(
    ("num_rows", "num_workers", "max_tokens"), [(16, 1, 30), (16, 3, 12), (5, 4, 0), (1, 2, 9), (7, 2, 11)]
)
def test_workers_share_a_step_without_gap_or_overlap_in_equally_many_micro_batches(
    num_rows: int, num_workers: int, max_tokens: int
) -> None:
    lengths = [(row * 37) % 11 + 1 for row in range(num_rows)]
    shares = [
        micro_batches(range(num_rows), lengths, rank=rank, num_workers=num_workers, max_tokens=max_tokens)
        for rank in range(num_workers)
    ]
    micros = list(itertools.chain(*shares))
    assert sorted(itertools.chain(*micros)) == list(range(num_rows))
    assert len({len(share) for share in shares}) == 1
    assert all(len(micro) <= 1 or sum(lengths[row] for row in micro) <= max_tokens for micro in micros)


def test_workers_get_equally_many_tokens_as_far_as_rows_allow() -> None:
    lengths = [100, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    first, second = (micro_batches(range(11), lengths, rank=rank, num_workers=2, max_tokens=100) for rank in (0, 1))
    assert (first, second) == ([[0]], [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])


def test_short_rows_fill_the_room_beside_long_ones() -> None:
    assert pack([0, 1, 2, 3, 4], [90, 40, 30, 8, 2], max_tokens=100) == [[0, 3, 4], [1, 2]]
    assert pack([0, 1], [5, 3], max_tokens=0) == [[0], [1]]


def test_rows_laid_end_to_end_begin_at_position_0_and_never_learn_their_first_token() -> None:
    rows = [TrainRow("a", "p", [5, 6, 7], [IGNORED, 6, 7]), TrainRow("b", "p", [8, 9], [8, 9])]
    flat = flatten(rows)
    assert flat.input_ids == [5, 6, 7, 8, 9]
    assert flat.kept == [0, 1, 3]
    assert flat.targets == [6, 7, 9]
    assert flat.position_ids == [0, 1, 2, 0, 1]
    assert flat.row_lengths == [3, 2]


def test_micro_batches_are_made_in_order_while_the_one_before_is_in_use() -> None:
    started: list[int] = []
    is_made = threading.Event()

    def make(number: int) -> int:
        started.append(number)
        if number == 1:
            is_made.set()
        return number * number

    made = made_ahead(range(4), make)
    assert next(made) == 0
    assert is_made.wait(10), "the second is made before it is asked for"
    assert list(made) == [1, 4, 9] and started == [0, 1, 2, 3]


def test_an_error_of_the_thread_is_raised_where_its_micro_batch_is_used() -> None:
    made = made_ahead([1, 0], lambda number: 1 // number)
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_the_first_token_is_not_counted_as_it_cannot_be_predicted() -> None:
    assert TrainRow("a", "p", [5, 6, 7], [5, IGNORED, 7]).supervised_tokens == 1


def test_the_learning_rate_rises_then_falls_and_never_reaches_zero_within_the_run() -> None:
    rates = [learning_rate(step, 20, peak=1.0, warmup_ratio=0.2) for step in range(20)]
    assert rates[:5] == sorted(rates[:5]) and rates[4] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert min(rates) > 0


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_the_schedule_holds_for_a_single_step(warmup: float) -> None:
    assert 0 < learning_rate(0, 1, peak=1.0, warmup_ratio=warmup) <= 1.0


def test_phases_are_taught_one_after_another_through_all_epochs_in_as_many_steps() -> None:
    phases = [number % 3 == 0 for number in range(50)]
    order = phased_order(phases, seed=1, num_epochs=2)
    steps = range(2 * steps_per_epoch(50, 16))
    rows = [row for step in steps for row in phased_step_rows(step, order, num_rows=50, batch_size=16)]
    assert rows == order
    assert sorted(rows) == sorted([*range(50)] * 2)
    taught = [phases[row] for row in rows]
    assert taught == sorted(taught)
    first, second = rows[:33], rows[33:66]
    assert sorted(first) == sorted(second)
    assert first != second
