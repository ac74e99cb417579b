"""Uncertainty of accuracies and of differences between models scored on the same prompts. Pure functions.

The unit of resampling is the prompt: several completions of one prompt are one cluster, never several prompts. Several
training seeds are resampled too (crossed bootstrap), independently for each arm. What was not graded (verdict ERROR)
is NaN here and left out; it is never a zero.

Not covered: a mixed model of the seeds. With two or three seeds the crossed bootstrap sees only part of their spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
ALPHA = 0.05
NUM_RESAMPLES = 4000
NUM_FLIPS = 200_000

Shares = NDArray[np.float64]
"""[runs, prompts]: share of a prompt's graded completions that are correct, per training seed; NaN = none graded."""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    def covers(self, value: float) -> bool:
        """Whether the value lies in it, ends included."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Difference:
    """First minus second, over the prompts that both were graded on."""

    estimate: float
    interval: Interval
    p_value: float
    test: str
    num_prompts: int
    only_first: float
    """Share of the prompts that the first does better on."""
    only_second: float
    spread: float
    """Root mean square of the prompts' differences: what decides how small a difference can be seen."""


def wilson_interval(num_correct: int, num_graded: int) -> Interval:
    """Interval of a proportion; [0, 1] where nothing was graded."""
    if num_graded == 0:
        return Interval(0.0, 1.0)
    found = stats.binomtest(num_correct, num_graded).proportion_ci(confidence_level=LEVEL, method="wilson")
    return Interval(float(found.low), float(found.high))


def accuracy(shares: Shares) -> float:
    """Mean over the graded cells; NaN where there is none."""
    graded = ~np.isnan(shares)
    return float(shares[graded].mean()) if graded.any() else float("nan")


def accuracy_interval(shares: Shares, rng: np.random.Generator) -> Interval:
    """Wilson for one completion per prompt, else the bootstrap over prompts (and seeds)."""
    shares = _graded_prompts(shares)
    num_prompts = shares.shape[1]
    if is_binary(shares):
        return wilson_interval(int(shares.sum()), num_prompts)
    (means,) = _resample([shares], rng)
    found = _percentiles(means)
    # All prompts alike: the bootstrap has nothing to resample, and a width of zero would be a false certainty.
    return wilson_interval(round(accuracy(shares) * num_prompts), num_prompts) if found.low == found.high else found


def paired_difference(first: Shares, second: Shares, rng: np.random.Generator) -> Difference:
    """Compare two models (or arms of several seeds) whose columns are the same prompts in the same order."""
    first, second = _common_prompts(first, second)
    per_prompt = np.nanmean(first, axis=0) - np.nanmean(second, axis=0)
    p_value, test = _difference_test(first, second, per_prompt, rng)
    return Difference(
        estimate=accuracy(first) - accuracy(second),
        interval=_difference_interval(first, second, rng),
        p_value=p_value,
        test=test,
        num_prompts=len(per_prompt),
        only_first=float((per_prompt > 0).mean()),
        only_second=float((per_prompt < 0).mean()),
        spread=float(np.sqrt((per_prompt**2).mean())),
    )


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test from the two counts of discordant prompts."""
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def sign_flip_p(per_prompt: NDArray[np.float64], rng: np.random.Generator) -> float:
    """Two-sided permutation test that the prompts' differences are symmetric around 0.

    The same test as `scipy.stats.permutation_test(..., permutation_type="samples")`, with differences of one size
    flipped together: fine enough a p-value to outlast Holm's correction over a hundred comparisons.
    """
    if not per_prompt.any():
        return 1.0
    sizes, occurs = np.unique(np.abs(per_prompt).round(9), return_counts=True)
    ups = rng.binomial(occurs, 0.5, size=(NUM_FLIPS, len(occurs)))
    is_extreme = np.abs((2 * ups - occurs) @ sizes) >= abs(per_prompt.sum()) - 1e-6
    return float((is_extreme.sum() + 1) / (NUM_FLIPS + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of one family of comparisons, in the order given."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]


def minimum_detectable(spread: float, num_prompts: int, *, power: float = 0.8) -> float:
    """Smallest true difference that a paired two-sided 5 % test on this many prompts sees with this power."""
    z = stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(power)
    return min(1.0, float(z * spread / np.sqrt(num_prompts)))


def standard_error(shares: Shares, rng: np.random.Generator) -> float:
    """Standard error of the accuracy, from the same resampling as its interval."""
    (means,) = _resample([_graded_prompts(shares)], rng)
    return float(means.std(ddof=1))


def is_binary(shares: Shares) -> bool:
    """Whether there is one run and every graded cell is 0 or 1, so that the exact binomial methods hold."""
    return shares.shape[0] == 1 and bool(np.isin(shares[~np.isnan(shares)], (0.0, 1.0)).all())


def _difference_test(
    first: Shares, second: Shares, per_prompt: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, str]:
    if is_binary(first) and is_binary(second):
        return mcnemar_p(int((per_prompt > 0).sum()), int((per_prompt < 0).sum())), "exact McNemar"
    return sign_flip_p(per_prompt, rng), "sign-flip permutation over prompts"


def _difference_interval(first: Shares, second: Shares, rng: np.random.Generator) -> Interval:
    first_means, second_means = _resample([first, second], rng)
    found = _percentiles(first_means - second_means)
    if found.low < found.high:
        return found
    # Every prompt has the same difference: what could still be hidden is as large as a share never yet seen.
    hidden = wilson_interval(0, first.shape[1]).high
    return Interval(max(-1.0, found.low - hidden), min(1.0, found.high + hidden))


def _resample(arms: Sequence[Shares], rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Means of each arm over the same draws of prompts, and over each arm's own draws of its runs.

    Prompts with equal outcomes are drawn together: a pattern of outcomes, as often as it occurs. Same distribution,
    and 5,000 prompts cost no more than the few patterns that they show.
    """
    patterns, occurs = np.unique(np.vstack(arms), axis=1, return_counts=True)
    draws = rng.multinomial(occurs.sum(), occurs / occurs.sum(), size=NUM_RESAMPLES).astype(np.float64)
    ends = np.cumsum([arm.shape[0] for arm in arms])[:-1]
    return [_weighted_means(part, draws, rng) for part in np.split(patterns, ends, axis=0)]


def _weighted_means(shares: Shares, draws: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    graded = ~np.isnan(shares)
    num_runs = shares.shape[0]
    runs = rng.multinomial(num_runs, np.full(num_runs, 1 / num_runs), size=len(draws))
    total = (draws @ np.where(graded, shares, 0.0).T * runs).sum(axis=1)
    weight = (draws @ graded.T.astype(np.float64) * runs).sum(axis=1)
    # A draw can miss every graded cell only when nearly all of them are NaN; it then says nothing new.
    means = np.full(len(total), accuracy(shares))
    np.divide(total, weight, out=means, where=weight > 0)
    return means


def _percentiles(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _graded_prompts(shares: Shares) -> Shares:
    return shares[:, ~np.isnan(shares).all(axis=0)]


def _common_prompts(first: Shares, second: Shares) -> tuple[Shares, Shares]:
    common = ~np.isnan(first).all(axis=0) & ~np.isnan(second).all(axis=0)
    if not common.any():
        raise ValueError("the two models have no graded prompt in common; score them on the same benchmark first")
    return first[:, common], second[:, common]
