"""Crossed random effects against statsmodels and simulated data of known truth."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from distill.evaluate import statistics
from distill.evaluate.statistics import (
    accuracy_interval,
    macro_change,
    macro_difference,
    macro_interval,
    paired_change,
    paired_difference,
)
from distill.evaluate.variance import Shares, estimate

TRIALS = 600


def outcomes(rng: np.random.Generator, chances: NDArray[np.float64]) -> Shares:
    return (rng.random(chances.shape) < np.clip(chances, 0, 1)).astype(np.float64)


def arm(rng: np.random.Generator, hardness: NDArray[np.float64], *, seeds: int, spread: float) -> Shares:
    """An arm of some seeds, each better or worse by itself, on problems of given hardness."""
    taste = rng.normal(0, 0.1, len(hardness))
    return outcomes(rng, 0.5 + hardness + taste + rng.normal(0, spread, seeds)[:, None])


def test_one_run_is_the_standard_error_of_the_mean() -> None:
    shares = outcomes(np.random.default_rng(1), np.full((1, 80), 0.3))
    found = estimate([shares])
    assert found.value == shares.mean()
    assert found.error == pytest.approx(stats.sem(shares[0])) and found.degrees == 79


def test_two_single_runs_are_the_paired_t_test() -> None:
    rng = np.random.default_rng(2)
    first, second = outcomes(rng, np.full((1, 60), 0.6)), outcomes(rng, np.full((1, 60), 0.4))
    found, theirs = estimate([first], [second]), stats.ttest_rel(first[0], second[0])
    assert found.value / found.error == pytest.approx(theirs.statistic) and found.degrees == theirs.df


def test_variance_of_several_runs_is_hillis_from_the_mean_squares_of_statsmodels() -> None:
    rng = np.random.default_rng(3)
    shares = arm(rng, rng.normal(0, 0.3, 40), seeds=4, spread=0.1)
    rows = [{"run": r, "prompt": p, "y": shares[r, p]} for r in range(4) for p in range(40)]
    table = anova_lm(ols("y ~ C(run) + C(prompt)", pd.DataFrame(rows)).fit())
    run, prompt, rest = (table["mean_sq"][name] for name in ("C(run)", "C(prompt)", "Residual"))
    total = run + max(prompt - rest, 0)
    found = estimate([shares])
    assert found.error**2 == pytest.approx(total / 160)
    assert total**2 / (run**2 / 3 + (prompt - rest) ** 2 / 39) == pytest.approx(found.degrees)


def test_seeds_that_agree_on_everything_add_nothing() -> None:
    once = outcomes(np.random.default_rng(4), np.full((1, 50), 0.5))
    assert estimate([np.repeat(once, 3, axis=0)]).error == pytest.approx(estimate([once]).error)


@pytest.mark.parametrize(("num_arms", "error"), [(1, 0.5), (2, 1.0), (4, 2.0)])
def test_one_problem_has_the_largest_error_that_shares_differences_and_changes_can_have(
    num_arms: int, error: float
) -> None:
    found = estimate(*[[np.ones((1, 1))]] * num_arms)
    assert (found.error, found.degrees) == (error, 1)


def test_runs_that_agree_by_chance_are_not_certain() -> None:
    shares = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    assert estimate([shares]).error > 0.15


def test_a_difference_on_every_problem_is_shown_and_not_certain() -> None:
    found = paired_difference(np.ones((3, 20)), np.zeros((1, 20)), np.random.default_rng(0))
    assert found.p_value < 0.001 and found.interval.low < 0.9 and found.interval.high == 1.0
    same = paired_difference(np.ones((3, 20)), np.ones((1, 20)), np.random.default_rng(0))
    assert same.p_value == 1.0 and same.interval.covers(0.0) and same.interval.low < -0.1


def test_a_completion_that_was_not_graded_is_neither_wrong_nor_a_lost_problem() -> None:
    rng = np.random.default_rng(5)
    shares = arm(rng, rng.normal(0, 0.3, 60), seeds=3, spread=0.0)
    holed = shares.copy()
    holed[1, 7] = np.nan
    found, whole = estimate([holed]), estimate([shares])
    assert abs(found.value - whole.value) < 0.01 and found.error == pytest.approx(whole.error, rel=0.1)
    with pytest.raises(ValueError, match="no graded prompt in common"):
        estimate([np.array([[1.0, np.nan]])], [np.array([[np.nan, 1.0]])])


def test_a_run_without_a_graded_completion_is_none() -> None:
    rng = np.random.default_rng(7)
    first, second = (arm(rng, rng.normal(0, 0.3, 60), seeds=2, spread=0.1) for _ in range(2))
    failed = np.vstack([first, np.full((1, 60), np.nan)])
    assert estimate([failed]) == estimate([first]) and accuracy_interval(failed) == accuracy_interval(first)
    assert estimate([failed, failed]) == estimate([first, first])
    single, lost = first[:1], np.vstack([first[:1], np.full((1, 60), np.nan)])
    for many, few in ((failed, first), (lost, single)):
        assert paired_difference(many, second, np.random.default_rng(0)) == paired_difference(
            few, second, np.random.default_rng(0)
        )
    assert paired_difference(lost, second[:1], np.random.default_rng(0)).test == "exact McNemar"
    assert paired_change((lost, single), (single, lost), np.random.default_rng(0)).test.startswith("sign-flip")


@pytest.mark.parametrize(("seeds", "problems", "spread"), [(5, 100, 0.04), (3, 100, 0.04), (2, 60, 0.04), (3, 60, 0.0)])
def test_no_difference_is_called_one_five_times_in_a_hundred(seeds: int, problems: int, spread: float) -> None:
    """Two arms of one recipe in truth; the same seeds never, the same problems always."""
    rng, wrong = np.random.default_rng(6), 0
    for _ in range(TRIALS):
        hardness = rng.normal(0, 0.25, problems)
        first, second = (arm(rng, hardness, seeds=seeds, spread=spread) for _ in range(2))
        wrong += paired_difference(first, second, rng).p_value < 0.05
    assert 0.01 <= wrong / TRIALS <= 0.07


def test_interval_of_the_difference_from_an_untrained_model_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(7), 0
    for _ in range(TRIALS):
        hardness = rng.uniform(-0.3, 0.3, 80)
        trained = outcomes(rng, 0.6 + hardness + rng.normal(0, 0.03, 3)[:, None])
        untouched = outcomes(rng, 0.4 + hardness[None, :])
        covered += paired_difference(trained, untouched, rng).interval.covers(0.2)
    assert 0.93 <= covered / TRIALS <= 0.98


@pytest.mark.parametrize("seeds", [3, 5])
def test_interval_of_an_arm_of_few_seeds_nearly_covers_the_truth(seeds: int) -> None:
    """Satterthwaite's degrees of freedom are a little too many where two of them carry most of the variance."""
    rng, covered = np.random.default_rng(8), 0
    for _ in range(TRIALS):
        chances = rng.beta(2, 6, 80) + rng.normal(0, 0.04, seeds)[:, None]
        covered += accuracy_interval(outcomes(rng, chances)).covers(0.25)
    assert 0.91 <= covered / TRIALS <= 0.98


@pytest.mark.parametrize("seeds", [3, 5])
def test_sizes_of_one_mix_that_solve_alike_are_told_apart_as_rarely_as_other_arms(seeds: int) -> None:
    """Arms of two sizes like the same problems, since the prompts of one are among the other's.

    With 500 repetitions, 200 problems, and one seed without luck of its own, three or five with 3 points: equal sizes
    were called different in 3.8, 4.0 and 4.2 %, and the interval of a difference of 5 points covered it in 94, 96 and
    95 % (2026-11-29).
    """
    rng, wrong, covered = np.random.default_rng(4), 0, 0
    for _ in range(TRIALS):
        shared = rng.uniform(-0.25, 0.25, 200) + rng.normal(0, 0.1, 200)
        small, same, large = (
            outcomes(rng, mean + shared + rng.normal(0, 0.05, 200) + rng.normal(0, 0.03, seeds)[:, None])
            for mean in (0.5, 0.5, 0.55)
        )
        wrong += paired_difference(small, same, rng).p_value < 0.05
        covered += paired_difference(large, small, rng).interval.covers(0.05)
    assert 0.01 <= wrong / TRIALS <= 0.07 and 0.93 <= covered / TRIALS <= 0.98


def test_mean_of_benchmarks_shares_its_seeds() -> None:
    """A seed that is better everywhere makes the macro's error larger than independent benchmarks would have it."""
    rng, covered, wrong = np.random.default_rng(9), 0, 0
    for _ in range(TRIALS):
        luck = [rng.normal(0, 0.05, 3)[:, None] for _ in range(2)]
        arms = [[outcomes(rng, rng.beta(4, 4, size) + mine) for size in (40, 120)] for mine in luck]
        covered += macro_interval(arms[0]).covers(0.5)
        wrong += macro_difference(arms[0], arms[1]).p_value < 0.05
    assert 0.92 <= covered / TRIALS <= 0.985 and wrong / TRIALS <= 0.07


def test_the_change_of_a_difference_by_nothing_is_the_difference() -> None:
    rng = np.random.default_rng(10)
    first, second, third = (arm(rng, rng.normal(0, 0.3, 60), seeds=3, spread=0.05) for _ in range(3))
    once = third[:1]
    alone, changed = paired_difference(first, second, rng), paired_change((first, second), (once, once), rng)
    assert changed.estimate == pytest.approx(alone.estimate)
    assert changed.standard_error == pytest.approx(alone.standard_error)
    assert macro_change([[one] for one in (first, second, once, once)]).p_value == pytest.approx(changed.p_value)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_of_a_change_of_gaps_covers_the_truth_and_rarely_finds_one_that_is_not_there(
    seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gaps of -20 and -10 points, then twice -15, each arm with seeds of its own on the same problems."""
    monkeypatch.setattr(statistics, "NUM_FLIPS", 1000)  # enough to tell p = 0.05, in a hundredth of the time
    rng, covered, wrong = np.random.default_rng(11), 0, 0
    spread = 0.03 if seeds > 1 else 0.0  # the interval of single runs holds for their very weights
    for _ in range(TRIALS // 2):
        hardness = rng.uniform(-0.2, 0.2, 80)
        changed, same = (
            [outcomes(rng, mean + hardness + rng.normal(0, spread, seeds)[:, None]) for mean in means]
            for means in ((0.3, 0.5, 0.5, 0.6), (0.3, 0.45, 0.5, 0.65))
        )
        covered += paired_change((changed[0], changed[1]), (changed[2], changed[3]), rng).interval.covers(-0.1)
        wrong += paired_change((same[0], same[1]), (same[2], same[3]), rng).p_value < 0.05
    assert 0.92 <= 2 * covered / TRIALS <= 0.985 and 0.01 <= 2 * wrong / TRIALS <= 0.07


def test_a_change_may_be_as_large_as_two_and_is_never_certain() -> None:
    ones, zeros = np.ones((1, 20)), np.zeros((1, 20))
    for runs in (1, 2):
        first = (np.repeat(ones, runs, axis=0), zeros)
        found = paired_change(first, (zeros, ones), np.random.default_rng(0))
        assert found.estimate == 2.0 and found.interval.high == 2.0 and 1.5 < found.interval.low < 1.9
        assert found.p_value < 0.001
