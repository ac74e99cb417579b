"""Budgets: steps and tokens that every arm shares, whatever its rows are like."""

import random

import pytest

from distill.config.identity import NOT_OF_CELL, student_identity, train_identity
from distill.config.students import LoraTune, StudentConfig
from distill.config.train import TrainConfig
from distill.core.errors import StageError
from distill.models.shape import ModelShape
from distill.train.budget import budget_rows, early_steps, num_passes, num_steps, train_flops

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


def test_finished_cells_keep_their_keys() -> None:
    """What version 0.1 hashed: a recipe that says nothing new must not be trained again."""
    assert student_identity(StudentConfig(name="s", model="m", priority=3, max_workers=4)) == {
        "name": "s", "model": "m", "tune": {"kind": "full", "learning_rate": 1e-5},
        "micro_batch_size": 4, "num_workers": 1, "zero_stage": 1,
    }  # fmt: skip
    settings = {name: value for name, value in train_identity(TrainConfig()).items() if name not in NOT_OF_CELL}
    assert settings == {
        "num_epochs": 2, "batch_size": 16, "max_length": 4096, "warmup_ratio": 0.1, "weight_decay": 0.0,
        "max_grad_norm": 1.0,
    }  # fmt: skip
    assert train_identity(TrainConfig()) == train_identity(TrainConfig(unmatched=True, max_failures=9))


def test_another_budget_is_another_result() -> None:
    assert train_identity(STEPS) == train_identity(STEPS.model_copy(update={"num_epochs": 7}))
    assert train_identity(STEPS) != train_identity(STEPS.model_copy(update={"num_steps": 7}))


def test_flops_are_six_per_weight_and_token_and_four_where_weights_are_frozen() -> None:
    shape = ModelShape(1100, 1000, 10, 2, 20, 10, 10, 10, {"q_proj": 20})
    assert shape.head_parameters == 100
    full = train_flops(shape, StudentConfig(name="s", model="m").tune, [3, 5], supervised_tokens=4)
    assert full == 8 * 6 * 1000 + 12 * 2 * 10 * (9 + 25) + 6 * 100 * 4
    lora = train_flops(shape, LoraTune(rank=2), [3, 5], supervised_tokens=4)
    assert lora == 8 * (4 * 1000 + 6 * 40) + 12 * 2 * 10 * (9 + 25) + 4 * 100 * 4


def test_the_first_steps_of_early_rows_do_not_depend_on_the_rows_still_to_come() -> None:
    alone = budget_rows(STEPS, [5] * 13, [0] * 13, seed=3, is_early=[True] * 13)
    places = [place for place in range(30) if place % 7 in (0, 2, 5)]  # where the 13 end up among 30
    among = budget_rows(STEPS, [5] * 30, [0] * 30, seed=3, is_early=[place in places for place in range(30)])
    assert alone is not None and among is not None and len(places) == 13
    steps = early_steps(STEPS, 13)
    assert steps == 3
    assert [[places[row] for row in batch] for batch in alone[:steps]] == [list(batch) for batch in among[:steps]]
    counts = [sum(batch.count(row) for batch in among) for row in range(30)]
    assert max(counts) - min(counts) <= 1


def test_early_rows_never_end_a_cell() -> None:
    assert early_steps(STEPS, 1000) == 9
    assert early_steps(STEPS, 3) == 0
