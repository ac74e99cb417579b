"""What a run can show: against scipy's power of the t test, and against simulated runs of known truth."""

import math

import numpy as np
import pytest
from scipy import stats

from distill.evaluate.power import (
    CAUTIOUS,
    Spread,
    detectable_over_all,
    minimum_detectable,
    observed_spread,
    planned_difference,
    planned_terms,
)
from distill.evaluate.statistics import macro_difference, mcnemar_p, paired_difference
from distill.evaluate.variance import Error, combined, estimate
from tests.fixtures.outcomes import simulated_arms

TRIALS = 300


def test_minimum_detectable_difference_is_seen_four_times_in_five() -> None:
    prompts, discordant = 300, 0.3
    gain = minimum_detectable(np.sqrt(discordant / prompts), prompts - 1)
    rng = np.random.default_rng(5)
    ups = rng.multinomial(prompts, [(discordant + gain) / 2, (discordant - gain) / 2, 1 - discordant], size=2000)
    seen = np.mean([mcnemar_p(int(up), int(down)) < 0.05 for up, down, _ in ups])
    assert 0.74 <= seen <= 0.86
    assert minimum_detectable(1.0, 1) == 1.0
    assert minimum_detectable(0.01, float("inf")) == pytest.approx(0.028, abs=1e-4)


@pytest.mark.parametrize("degrees", [1, 2.5, 4, 11.3, 99, 3000, 1e5])
@pytest.mark.parametrize(("power", "alpha"), [(0.8, 0.05), (0.9, 0.05 / 3), (0.95, 0.001)])
def test_it_has_this_power_by_the_noncentral_t_distribution(degrees: float, power: float, alpha: float) -> None:
    error = 1e-5
    shift = minimum_detectable(error, degrees, power=power, alpha=alpha) / error
    assert stats.nct.sf(stats.t.isf(alpha / 2, degrees), degrees, shift) == pytest.approx(power, abs=1e-3)


def test_more_arms_to_beat_and_more_candidates_need_a_larger_difference() -> None:
    error, noisy = Error(0.02, math.inf), Error(0.04, math.inf)
    single = detectable_over_all([error], 1)
    assert single == pytest.approx(minimum_detectable(0.02, math.inf))
    assert detectable_over_all([error, error], 1) > single < detectable_over_all([error], 2)
    assert detectable_over_all([error, noisy], 1) == detectable_over_all([noisy, noisy], 1)


@pytest.mark.parametrize(("seeds", "problems"), [(1, (200,)), (3, (200,)), (5, (60, 150))])
def test_the_planned_error_is_the_one_that_runs_have(seeds: int, problems: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    found = [estimate(*simulated_arms(rng, (0.5, 0.5), problems, seeds)) for _ in range(TRIALS)]
    planned = combined(planned_terms(problems, seeds, CAUTIOUS))
    assert planned.error == pytest.approx(np.std([one.value for one in found]), rel=0.1)
    assert planned.error == pytest.approx(np.sqrt(np.mean([one.error**2 for one in found])), rel=0.05)


@pytest.mark.parametrize(("seeds", "problems"), [(1, (200,)), (3, (200,)), (5, (60, 150))])
def test_the_planned_difference_is_shown_in_four_of_five_runs_by_the_tests_of_the_report(
    seeds: int, problems: tuple[int, ...]
) -> None:
    rng, shown = np.random.default_rng(2), 0
    difference = planned_difference(planned_terms(problems, seeds, CAUTIOUS))
    for _ in range(TRIALS):
        first, second = simulated_arms(rng, (0.5 + difference / 2, 0.5 - difference / 2), problems, seeds)
        is_one = len(problems) == 1
        found = paired_difference(first[0], second[0], rng) if is_one else macro_difference(first, second)
        shown += found.p_value < 0.05
    assert 0.74 < shown / TRIALS < 0.86


def test_with_known_errors_the_planned_difference_is_that_of_the_t_test() -> None:
    terms = planned_terms((200,), 1, CAUTIOUS)
    assert planned_difference(terms) == pytest.approx(minimum_detectable(*combined(terms)), rel=0.02)
    assert planned_difference(terms, 2, 3) == pytest.approx(detectable_over_all([combined(terms)] * 2, 3), rel=0.02)


def test_more_seeds_and_problems_show_smaller_differences_as_far_as_the_other_allows() -> None:
    def error(problems: int, seeds: int) -> float:
        return combined(planned_terms((problems,), seeds, CAUTIOUS)).error

    assert error(200, 3) > error(200, 6) > error(400, 6)
    assert error(10**9, 4) == pytest.approx(CAUTIOUS.seed_spread / math.sqrt(2))
    assert error(200, 1) == pytest.approx(math.sqrt(0.5 * 0.7 / 200)), "of these very weights: no luck"


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("problems", "spread"),
    [((1,), CAUTIOUS), ((1, 200), CAUTIOUS), ((1,), CAUTIOUS._replace(accuracy=1.0, seed_spread=0.0))],
)
def test_a_benchmark_of_one_problem_is_planned_with_the_error_that_the_test_takes(
    seeds: int, problems: tuple[int, ...], spread: Spread
) -> None:
    terms = planned_terms(problems, seeds, spread)
    arms = [[np.zeros((seeds, count)) for count in problems] for _ in range(2)]
    assert combined(terms).error >= estimate(*arms).error and all(one.degrees for one in terms)
    assert planned_difference(terms) == 1.0


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_outcomes_that_do_not_vary_promise_no_exactness(seeds: int, accuracy: float) -> None:
    terms = planned_terms((100, 100), seeds, CAUTIOUS._replace(accuracy=accuracy, seed_spread=0.0))
    least = math.sqrt(2) / 200
    assert combined(terms) == (pytest.approx(least), pytest.approx(198))
    assert planned_difference(terms) == pytest.approx(minimum_detectable(least, 198), rel=0.02)


def test_the_spread_of_a_run_is_found_again() -> None:
    rng, truth = np.random.default_rng(3), Spread(0.5, 0.25, 0.55, 0.05)
    groups = [[arm[0] for arm in simulated_arms(rng, (0.5,) * 4, (400,), 3, truth)] for _ in range(20)]
    assert observed_spread(groups) == pytest.approx(truth, abs=0.02)


def test_arms_of_one_seed_or_a_single_arm_tell_no_spread() -> None:
    runs = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    assert observed_spread([]) is None
    assert observed_spread([[runs]]) is None
    assert observed_spread([[runs[:1], runs[1:]]]) is None
    assert observed_spread([[np.ones((2, 3)), np.ones((2, 3))]]) is None, "outcomes that do not vary"
