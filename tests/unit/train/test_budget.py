"""Budgets: steps and tokens that every arm shares, whatever its rows are like."""

import random
from dataclasses import replace

import pytest

from distill.config.decides import identity
from distill.config.students import LoraTune, StudentConfig
from distill.config.train import TrainConfig
from distill.core.errors import StageError
from distill.models.shape import ModelShape
from distill.train.budget import StepOrder, budget_rows, num_passes, num_steps, score_flops, train_flops
from distill.train.cells import Cell
from distill.train.worker.batches import TrainRow

STEPS = TrainConfig(budget="steps", num_steps=10, batch_size=4)
TOKENS = TrainConfig(budget="tokens", num_steps=10, num_tokens=4000)


def test_epochs_take_as_many_steps_as_the_rows_need() -> None:
    assert num_steps(TrainConfig(num_epochs=3, batch_size=4), 10) == 9
    assert budget_rows(TrainConfig(), [1, 1], [0, 0], seed=0) is None


@pytest.mark.parametrize("num_rows", [3, 17, 40, 100])
def test_a_budget_of_steps_is_full_batches_of_fair_passes(num_rows: int) -> None:
    planned = budget_rows(STEPS, [5] * num_rows, [0] * num_rows, seed=1)
    assert planned is not None
    assert [len(batch) for batch in planned] == [4] * 10 == [4] * num_steps(STEPS, num_rows)
    counts = [sum(batch.count(row) for batch in planned) for row in range(num_rows)]
    assert max(counts) - min(counts) <= 1
    assert num_passes(STEPS, num_rows, 5 * num_rows) == pytest.approx(sum(counts) / num_rows)


@pytest.mark.parametrize("mean", [20, 200])
def test_a_budget_of_tokens_gives_long_and_short_arms_the_same_steps_and_tokens(mean: int) -> None:
    chance = random.Random(mean)
    tokens = [chance.randint(mean // 2, 3 * mean // 2) for _ in range(50)]
    planned = budget_rows(TOKENS, tokens, [0] * 50, seed=1)
    assert planned is not None
    assert len(planned) == 10
    sums = [sum(tokens[row] for row in batch) for batch in planned]
    assert 4000 <= sum(sums) < 4000 + max(tokens)
    assert all(abs(one - sum(sums) / 10) <= max(tokens) for one in sums)


def test_every_step_of_a_token_budget_has_a_row_or_the_budget_is_refused() -> None:
    planned = budget_rows(TOKENS, [900, 10, 10, 10] * 4, [0] * 16, seed=0)
    assert planned is not None
    assert all(planned)
    with pytest.raises(StageError, match="too few for 10 steps"):
        budget_rows(TOKENS, [3000, 3000], [0, 0], seed=0)


@pytest.mark.parametrize("train", [STEPS, TOKENS])
def test_phases_keep_their_order_and_their_share(train: TrainConfig) -> None:
    phases = [0] * 30 + [1] * 10
    planned = budget_rows(train, [40] * 40, phases, seed=2)
    assert planned is not None
    taught = [phases[row] for batch in planned for row in batch]
    assert taught == sorted(taught)
    assert sum(taught) / len(taught) == pytest.approx(0.25, abs=0.03)


def test_rows_follow_from_the_seed_alone() -> None:
    first, again, other = (budget_rows(STEPS, [5] * 30, [0] * 30, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_settings_that_change_no_student_are_in_no_cell_key() -> None:
    plain = StudentConfig(name="s", model="m")
    assert identity(plain) == identity(plain.model_copy(update={"priority": 3, "max_workers": 4}))
    assert identity(TrainConfig()) == identity(TrainConfig(unmatched=True, max_failures=9))


def test_an_arms_own_number_of_steps_is_another_result_of_its_own_cells_alone() -> None:
    common = Cell("s@a", StudentConfig(name="s", model="m"), "a", 0)
    own = replace(common, num_steps=7)
    assert common.budget(STEPS) is STEPS
    assert num_steps(own.budget(STEPS), 30) == 7
    assert identity(own.budget(STEPS).used) == identity(STEPS.model_copy(update={"num_steps": 7}))


def test_another_budget_is_another_result() -> None:
    assert identity(STEPS) != identity(STEPS.model_copy(update={"num_steps": 7}))
    assert identity(STEPS) != identity(TOKENS)


def test_flops_are_six_per_weight_and_token_and_four_where_weights_are_frozen() -> None:
    shape = ModelShape(1100, 1000, 10, 2, 20, 10, 10, 10, {"q_proj": 20})
    assert shape.head_parameters == 100
    full = train_flops(shape, StudentConfig(name="s", model="m").tune, [3, 5], supervised_tokens=4)
    assert full == 8 * 6 * 1000 + 12 * 2 * 10 * (9 + 25) + 6 * 100 * 4
    lora = train_flops(shape, LoraTune(rank=2), [3, 5], supervised_tokens=4)
    assert lora == 8 * (4 * 1000 + 6 * 40) + 12 * 2 * 10 * (9 + 25) + 4 * 100 * 4


def test_scoring_is_a_forward_pass_a_third_of_training() -> None:
    shape = ModelShape(1100, 1000, 10, 2, 20, 10, 10, 10, {"q_proj": 20})
    full = StudentConfig(name="s", model="m").tune
    assert score_flops(shape, [3, 5], 4) == pytest.approx(train_flops(shape, full, [3, 5], supervised_tokens=4) / 3)


@pytest.mark.parametrize("train", [STEPS, TOKENS, TrainConfig(num_epochs=2, batch_size=4)])
def test_a_pair_is_one_example_and_its_rows_are_always_in_one_step(train: TrainConfig) -> None:
    rows = [TrainRow(str(number), "p", [1] * 9, [-100] + [1] * (3 + number % 5)) for number in range(60)]
    alone, pairs = StepOrder(train, rows[::2], seed=0), StepOrder(train, rows, seed=0, together=2)
    assert pairs.num_steps == alone.num_steps == num_steps(train, 30)
    for step in range(pairs.num_steps):
        found = pairs.rows(step)
        assert all(one % 2 == 0 and two == one + 1 for one, two in zip(found[::2], found[1::2], strict=True))
        if train.budget != "tokens":
            assert found[::2] == tuple(2 * row for row in alone.rows(step)), "as many examples, in the same order"
    if train.budget == "tokens":
        taught = sum(rows[row].supervised_tokens for step in range(pairs.num_steps) for row in pairs.rows(step))
        assert taught == pytest.approx(4000, rel=0.01), "of both sides"
