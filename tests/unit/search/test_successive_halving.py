"""Weights that are searched: what is tried, what goes on, how sure that is, and what recipes may say of it."""

import numpy as np
import pytest

from distill.config.search import num_mixes
from distill.search.successive_halving import num_kept, select_best, steps_of_round, weight_grid


@pytest.mark.parametrize(("pools", "grid"), [(2, 2), (2, 10), (3, 4), (4, 3)])
def test_the_grid_holds_every_mix_once(pools: int, grid: int) -> None:
    names = [f"p{number}" for number in range(pools)]
    mixes = weight_grid(names, grid)
    assert len({tuple(mix.values()) for mix in mixes}) == len(mixes) == num_mixes(pools, grid)
    assert all(sum(mix.values()) == pytest.approx(1.0) and list(mix) == names for mix in mixes)
    assert {name: 1.0 if name == "p0" else 0.0 for name in names} in mixes


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("num", [2, 5, 21])
def test_every_round_leaves_fewer_until_one_is_left(num: int, keep: float) -> None:
    while num > 1:
        assert 1 <= num_kept(num, keep) < num
        num = num_kept(num, keep)


def test_runs_grow_as_mixes_get_fewer() -> None:
    assert [steps_of_round(number, 10, 0.5) for number in (1, 2, 3)] == [10, 20, 40]


def test_the_best_mixes_are_kept_and_a_clear_winner_is_certain() -> None:
    rng = np.random.default_rng(1)
    scores = [(rng.random((2, 200)) < rate).astype(float) for rate in (0.2, 0.9, 0.5, 0.3)]
    result = select_best(scores, 2, rng)
    assert result.kept == [1, 2]
    assert result.kept_share[1] > 0.99 and sum(result.kept_share) == pytest.approx(2.0)


def test_equal_mixes_are_chosen_by_their_order_and_reported_as_a_guess() -> None:
    rng = np.random.default_rng(2)
    scores = [(rng.random((1, 100)) < 0.5).astype(float) for _ in range(2)]
    scores[1][0] = scores[0][0][::-1]
    result = select_best(scores, 1, rng)
    assert result.kept == [0] and 0.4 < result.kept_share[0] < 0.7


def test_chances_of_being_chosen_are_those_of_new_problems() -> None:
    # Known truth: draw fresh problems many times, and compare how often the first mix wins with what one draw says.
    rates, rng, num = (0.55, 0.45), np.random.default_rng(3), 80
    shares, won = [], 0
    for _ in range(80):
        scores = [(rng.random((1, num)) < rate).astype(float) for rate in rates]
        result = select_best(scores, 1, rng)
        shares.append(result.kept_share[0])
        won += result.kept == [0]
    # A resample of one draw varies about that draw, not about the truth: it is right on average within a few points.
    assert abs(float(np.mean(shares)) - won / 80) < 0.12


def test_answers_that_could_not_be_graded_win_nothing() -> None:
    graded, ungraded = np.ones((1, 10)), np.full((1, 10), np.nan)
    assert select_best([ungraded, graded * 0.5], 1, np.random.default_rng(0)).kept == [1]
