"""The statistics against scipy, published numbers and simulated data of known truth."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from distill.evaluate.interval import Interval
from distill.evaluate.statistics import (
    accuracy,
    accuracy_interval,
    holm,
    is_binary,
    macro_interval,
    mcnemar_p,
    paired_difference,
    pass_at,
    sign_flip_p,
    wilson_interval,
)
from distill.evaluate.variance import Shares


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def graded(rng: np.random.Generator, chance: float, *, prompts: int = 100, runs: int = 1) -> Shares:
    return (rng.random((runs, prompts)) < chance).astype(np.float64)


def test_wilson_gives_the_published_numbers() -> None:
    found = wilson_interval(81, 263)  # Newcombe 1998, table I, method 3
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert wilson_interval(0, 20).low == 0.0 and wilson_interval(0, 20).high == pytest.approx(0.1611, abs=1e-4)
    assert wilson_interval(0, 0) == Interval(0.0, 1.0)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar_p(1, 9) == pytest.approx(2 * stats.binom.cdf(1, 10, 0.5))
    assert mcnemar_p(4, 4) == 1.0
    assert mcnemar_p(0, 0) == 1.0


def test_holm_steps_down_and_keeps_the_order_given() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    many = np.random.default_rng(0).random(40).round(2) ** 4
    assert holm(many.tolist()) == multipletests(many, method="holm")[1].tolist()


def test_interval_of_one_completion_per_prompt_is_wilson(rng: np.random.Generator) -> None:
    shares = graded(rng, 0.4)
    assert is_binary(shares)
    assert accuracy_interval(shares) == wilson_interval(int(shares.sum()), 100)


def test_what_was_not_graded_is_left_out_and_never_wrong(rng: np.random.Generator) -> None:
    shares = np.array([[1.0, 0.0, np.nan, 1.0]])
    assert accuracy(shares) == pytest.approx(2 / 3)
    assert accuracy_interval(shares) == wilson_interval(2, 3)
    found = paired_difference(shares, np.array([[0.0, 0.0, 1.0, np.nan]]), rng)
    assert found.num_prompts == 2 and found.estimate == 0.5


def test_the_interval_of_a_mean_counts_only_graded_prompts() -> None:
    shares = np.full((1, 100), np.nan)
    shares[0, 7] = 1.0
    assert macro_interval([shares, np.ones((1, 100))]) == macro_interval([np.ones((1, 1)), np.ones((1, 100))])
    assert macro_interval([shares]).low == pytest.approx(wilson_interval(1, 1).low)


def test_models_without_a_common_prompt_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="no graded prompt in common"):
        paired_difference(np.array([[1.0, np.nan]]), np.array([[np.nan, 1.0]]), rng)


def test_paired_bootstrap_agrees_with_scipy(rng: np.random.Generator) -> None:
    first, second = graded(rng, 0.5, prompts=200), graded(rng, 0.35, prompts=200)
    ours = paired_difference(first, second, rng).interval
    theirs = stats.bootstrap(((first - second)[0],), np.mean, method="percentile", n_resamples=9999, rng=rng)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.015)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.015)
    assert paired_difference(first, second, rng).standard_error == pytest.approx(theirs.standard_error, rel=0.05)


def test_pairing_makes_the_interval_narrow(rng: np.random.Generator) -> None:
    easy = rng.random(300) < 0.5
    noise = rng.random(300) < 0.05
    first, second = easy[None, :].astype(np.float64), (easy ^ noise)[None, :].astype(np.float64)
    paired = paired_difference(first, second, rng).interval
    alone = accuracy_interval(first)
    assert paired.high - paired.low < 0.6 * (alone.high - alone.low)


def test_sign_flips_agree_with_mcnemar_where_both_hold(rng: np.random.Generator) -> None:
    per_prompt = np.array([1.0] * 12 + [-1.0] * 3 + [0.0] * 40)
    assert sign_flip_p(per_prompt, rng) == pytest.approx(mcnemar_p(12, 3), abs=0.012)
    assert sign_flip_p(np.zeros(5), rng) == 1.0


def test_sign_flips_of_several_samples_agree_with_scipy(rng: np.random.Generator) -> None:
    per_prompt = rng.choice([-1, -2 / 3, -1 / 3, 0, 0, 1 / 3, 1 / 2, 1], size=60)
    theirs = stats.permutation_test((per_prompt,), np.mean, permutation_type="samples", n_resamples=20_000, rng=rng)
    assert sign_flip_p(per_prompt, rng) == pytest.approx(theirs.pvalue, abs=0.015)


def test_a_clear_difference_of_several_samples_outlasts_a_hundred_comparisons(rng: np.random.Generator) -> None:
    per_prompt = rng.choice([0, 1 / 3, 2 / 3], size=80)
    assert holm([sign_flip_p(per_prompt, rng)] + [0.5] * 99)[0] < 0.01


def test_equal_outcomes_do_not_give_a_certain_difference(rng: np.random.Generator) -> None:
    same = graded(rng, 0.5, prompts=20)
    found = paired_difference(same, same, rng)
    assert found.estimate == 0 and found.p_value == 1.0
    assert found.interval.low < -0.1 and found.interval.high > 0.1
    all_right = accuracy_interval(np.ones((2, 20)))
    assert all_right.low < 0.9


def test_same_seed_gives_the_same_interval() -> None:
    first, second = (graded(np.random.default_rng(seed), 0.5) for seed in (1, 2))
    once, again = (paired_difference(first, second, np.random.default_rng(7)) for _ in range(2))
    assert once == again


def test_several_samples_of_one_prompt_are_one_cluster(rng: np.random.Generator) -> None:
    by_prompt = (rng.random(60) < 0.5).astype(np.float64)
    once = accuracy_interval(by_prompt[None, :])
    # Four identical seeds bring no information beyond the 60 prompts.
    four = accuracy_interval(np.repeat(by_prompt[None, :], 4, axis=0))
    assert four.high - four.low == pytest.approx(once.high - once.low, rel=0.12)


def test_paired_interval_covers_the_truth_95_times_in_100() -> None:
    covered, rejected, trials = 0, 0, 400
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        hardness = rng.beta(1, 1, 120)
        chances = [np.clip(hardness + gain, 0, 1) for gain in (0.1, 0, 0)]
        first, second, third = ((rng.random((1, 120)) < chance).astype(np.float64) for chance in chances)
        truth = 0.1 - 0.1**2 / 2  # the gain is cut where hardness + 0.1 is above 1
        covered += paired_difference(first, second, rng).interval.covers(truth)
        rejected += paired_difference(second, third, rng).p_value < 0.05
    assert 0.92 <= covered / trials <= 0.98
    assert rejected / trials <= 0.06  # the exact test is conservative


def test_pass_at_k_is_the_mean_over_all_choices_of_k() -> None:
    num, correct = np.array([4, 4, 4, 2]), np.array([0, 1, 4, 1])
    for k in (1, 2, 4):
        found = pass_at(k, num, correct)
        for place in range(4):
            outcomes = [True] * correct[place] + [False] * (num[place] - correct[place])
            choices = [any(one) for one in itertools.combinations(outcomes, k)]
            assert np.isnan(found[place]) if not choices else found[place] == pytest.approx(np.mean(choices))


def test_interval_of_avg_at_k_on_a_small_benchmark_covers_the_truth() -> None:
    """30 problems, 8 completions each, most of them far beyond the model: an AIME."""
    covered, trials = 0, 600
    rng = np.random.default_rng(3)
    for _ in range(trials):
        chances = rng.beta(0.3, 1.7, 30)
        covered += accuracy_interval(rng.binomial(8, chances)[None, :] / 8).covers(0.15)
    assert 0.925 <= covered / trials <= 0.985
