"""Uncertainty of accuracies and of differences between models scored on the same prompts. Pure functions.

The unit of sampling is the prompt: several completions of one prompt are one cluster, never several prompts. Training
seeds are a random effect (`distill.evaluate.variance`). What was not graded (verdict ERROR) is NaN here and left out;
it is never a zero. Intervals and tests are scipy's and statsmodels', Holm's correction its formula.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from distill.evaluate.interval import Interval
from distill.evaluate.power import ALPHA
from distill.evaluate.variance import Estimate, Shares, estimate, graded_runs

LEVEL = 0.95
NUM_RESAMPLES = 4000
NUM_FLIPS = 200_000
RANDOM_SEEDS = "t test, seeds and problems random"
SIGN_FLIPS = "sign-flip permutation over prompts"
Pair = tuple[Shares, Shares]
"""Two arms on the same prompts, the second taken from the first."""


@dataclass(frozen=True)
class Difference:
    """First minus second, over the prompts that both were graded on."""

    estimate: float
    interval: Interval
    p_value: float
    test: str
    num_prompts: int
    standard_error: float
    degrees: float
    """Degrees of freedom of the standard error."""


def wilson_interval(num_correct: float, num_graded: float) -> Interval:
    """Interval of a proportion (Wilson 1927); [0, 1] where nothing was graded. Counts may be effective ones."""
    if num_graded <= 0:
        return Interval(0.0, 1.0)
    low, high = proportion_confint(num_correct, num_graded, alpha=ALPHA, method="wilson")
    # Rounding leaves an end at 1e-17 where it is 0.
    return Interval(max(0.0, round(float(low), 12)), min(1.0, round(float(high), 12)))


def accuracy(shares: Shares) -> float:
    """Mean over the graded cells; NaN where there is none."""
    graded = ~np.isnan(shares)
    return float(shares[graded].mean()) if graded.any() else float("nan")


def accuracy_interval(shares: Shares) -> Interval:
    """Wilson's interval; with several completions or seeds, on the effective number of problems.

    That number makes the binomial variance equal to the estimated one, and is shrunk for its degrees of freedom
    (Franco et al., J. Survey Statistics and Methodology 7:334, 2019). It stays within [0, 1] and keeps its coverage
    where benchmarks are small or nearly solved, as the bootstrap does not.
    """
    (shares,) = graded_runs([_graded_prompts(shares)])
    if not shares.size:
        return wilson_interval(0, 0)
    if is_binary(shares):
        return wilson_interval(float(shares.sum()), shares.shape[1])
    return macro_interval([shares])


def macro_interval(benchmarks: Sequence[Shares]) -> Interval:
    """Interval of the unweighted mean over benchmarks that the same runs were scored on, as `accuracy_interval`."""
    benchmarks = [_graded_prompts(shares) for shares in benchmarks]
    found = estimate(benchmarks)
    num_prompts = min(shares.shape[1] for shares in benchmarks)
    effective = effective_prompts(found, num_prompts)
    return wilson_interval(found.value * effective, effective)


def effective_prompts(found: Estimate, num_prompts: int) -> float:
    """Effective sample size: the number of problems, answered once each, that would give the same uncertainty."""
    binomial = found.value * (1 - found.value)
    if found.error == 0 or binomial <= 0:
        # All prompts have the same result: a width of zero would be false certainty.
        return float(num_prompts)
    quantile = stats.t.ppf(1 - ALPHA / 2, found.degrees) / stats.norm.ppf(1 - ALPHA / 2)
    return float(binomial / (found.error * quantile) ** 2)


def paired_difference(first: Shares, second: Shares, rng: np.random.Generator) -> Difference:
    """Compare two models (or arms of several seeds) whose columns are the same prompts in the same order.

    One run each: paired bootstrap over prompts; exact McNemar, or sign flips where completions were several. Several
    runs: t interval and t test with seeds and problems random. Runs without any graded completion do not count.
    """
    (first,), (second,) = graded_runs([first]), graded_runs([second])
    found = estimate([first], [second])
    if max(len(first), len(second)) > 1:
        return random_difference(found, _common_prompts(first, second)[0].shape[1])
    first, second = _common_prompts(first, second)
    per_prompt = (first - second)[0]
    p_value, test = _single_test(first, second, per_prompt, rng)
    return Difference(
        estimate=found.value,
        interval=_bootstrap_interval(per_prompt, rng),
        p_value=p_value,
        test=test,
        num_prompts=len(per_prompt),
        standard_error=found.error,
        degrees=found.degrees,
    )


def macro_difference(first: Sequence[Shares], second: Sequence[Shares]) -> Difference:
    """Difference of the unweighted means over benchmarks, with seeds and problems random."""
    pairs = list(zip(first, second, strict=True))
    return random_difference(estimate(first, second), sum(_common_prompts(*pair)[0].shape[1] for pair in pairs))


def paired_change(first: Pair, second: Pair, rng: np.random.Generator) -> Difference:
    """How much larger the difference of one pair of arms is than that of another, all on the same prompts.

    One run each: paired bootstrap over prompts and sign flips. Several runs: t, with seeds and problems random.
    """
    arms = [one for arm in (*first, *second) for one in graded_runs([arm])]
    found = estimate(*([arm] for arm in arms))
    common = _common_prompts(*arms)
    if max(map(len, arms)) > 1:
        return random_difference(found, common[0].shape[1], most=2.0)
    per_prompt = (common[0] - common[1] - common[2] + common[3])[0]
    return Difference(
        estimate=found.value,
        interval=_bootstrap_interval(per_prompt, rng, most=2.0),
        p_value=sign_flip_p(per_prompt, rng),
        test=SIGN_FLIPS,
        num_prompts=len(per_prompt),
        standard_error=found.error,
        degrees=found.degrees,
    )


def macro_change(arms: Sequence[Sequence[Shares]]) -> Difference:
    """As `macro_difference`, of how much larger the first two arms' difference is than that of the last two."""
    num_prompts = sum(_common_prompts(*group)[0].shape[1] for group in zip(*arms, strict=True))
    return random_difference(estimate(*arms), num_prompts, most=2.0)


def random_difference(found: Estimate, num_prompts: int, *, most: float = 1.0) -> Difference:
    """A difference as an estimate, by Student's t; `most` is the largest possible one."""
    if found.error:
        reach = float(stats.t.ppf(1 - ALPHA / 2, found.degrees)) * found.error
        p_value = float(2 * stats.t.sf(abs(found.value) / found.error, found.degrees))
    else:  # every prompt has the same difference: the bound is that of a share that was never observed
        reach = wilson_interval(0, num_prompts).high
        p_value = mcnemar_p(num_prompts, 0) if found.value else 1.0
    return Difference(
        estimate=found.value,
        interval=Interval(max(-most, found.value - reach), min(most, found.value + reach)),
        p_value=p_value,
        test=RANDOM_SEEDS,
        num_prompts=num_prompts,
        standard_error=found.error,
        degrees=found.degrees,
    )


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test from the two counts of discordant prompts."""
    if only_first + only_second == 0:
        return 1.0
    return float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)


def sign_flip_p(per_prompt: NDArray[np.float64], rng: np.random.Generator) -> float:
    """Two-sided permutation test that the prompts' differences are symmetric around 0.

    The same test as `scipy.stats.permutation_test(..., permutation_type="samples")`, with differences of one size
    flipped together: its p-values are fine enough for Holm's correction over a hundred comparisons.
    """
    if not per_prompt.any():
        return 1.0
    sizes, occurs = np.unique(np.abs(per_prompt).round(9), return_counts=True)
    ups = rng.binomial(occurs, 0.5, size=(NUM_FLIPS, len(occurs)))
    is_extreme = np.abs((2 * ups - occurs) @ sizes) >= abs(per_prompt.sum()) - 1e-6
    return float((is_extreme.sum() + 1) / (NUM_FLIPS + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of one family of comparisons, in the order given.

    Not statsmodels' own, which collects the garbage of the whole process at every call: 0.35 s beside these libraries.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return [float(value) for value in adjusted]


def pass_at(k: int, num_completions: NDArray[np.int64], num_correct: NDArray[np.int64]) -> NDArray[np.float64]:
    """Chance per prompt that at least one of `k` of its completions is correct; NaN with fewer than `k` of them.

    The unbiased estimator 1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374, eq. 1), a hypergeometric tail.
    """
    found = stats.hypergeom.sf(0, num_completions, num_correct, np.minimum(k, num_completions))
    return np.where(num_completions >= k, found, np.nan)


def is_binary(shares: Shares) -> bool:
    """Whether there is one run and every graded cell is 0 or 1, so that the exact binomial methods hold."""
    return shares.shape[0] == 1 and bool(np.isin(shares[~np.isnan(shares)], (0.0, 1.0)).all())


def _single_test(
    first: Shares, second: Shares, per_prompt: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, str]:
    if is_binary(first) and is_binary(second):
        return mcnemar_p(int((per_prompt > 0).sum()), int((per_prompt < 0).sum())), "exact McNemar"
    return sign_flip_p(per_prompt, rng), SIGN_FLIPS


def _bootstrap_interval(per_prompt: NDArray[np.float64], rng: np.random.Generator, *, most: float = 1.0) -> Interval:
    """Percentile bootstrap of the mean.

    Prompts with equal differences are drawn together: the same distribution as `scipy.stats.bootstrap`, and 5,000
    prompts cost no more than the few distinct differences among them.
    """
    values, occurs = np.unique(per_prompt, return_counts=True)
    draws = rng.multinomial(occurs.sum(), occurs / occurs.sum(), size=NUM_RESAMPLES)
    low, high = np.quantile(draws @ values / occurs.sum(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if low < high:
        return Interval(float(low), float(high))
    # Every prompt has the same difference: the bound is that of a share that was never observed.
    unseen = wilson_interval(0, len(per_prompt)).high
    return Interval(max(-most, float(low) - unseen), min(most, float(high) + unseen))


def _graded_prompts(shares: Shares) -> Shares:
    return shares[:, ~np.isnan(shares).all(axis=0)]


def _common_prompts(*arms: Shares) -> tuple[Shares, ...]:
    common = np.logical_and.reduce([~np.isnan(arm).all(axis=0) for arm in arms])
    return tuple(arm[:, common] for arm in arms)
