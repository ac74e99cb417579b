"""Which true difference a run can show: before it from assumptions about outcomes, after it from observed errors.

Both are the smallest difference that the report's own test (`distill.evaluate.variance`, Student's t) shows with a
power of 80 %. An outcome is taken for the sum of what a problem is to every arm, what it is to this arm, the seed's
luck and a rest; correlations between runs say how its variance is divided among them. What it imports is imported
quickly: `distill plan` needs it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from distill.evaluate.variance import Error, Shares, Term, largest_variance

ALPHA = 0.05
POWER = 0.8
NUM_DRAWS = 50_000
NORMAL_DEGREES = 1e6
"""Degrees of freedom from which on Student's t is the normal distribution for every purpose here."""


class Spread(NamedTuple):
    """How the outcomes of trained students vary."""

    accuracy: float
    """Share of the problems that are solved."""
    arm_correlation: float
    """Of the outcomes of two arms on the same problems."""
    seed_correlation: float
    """Of the outcomes of two seeds of one arm on the same problems."""
    seed_spread: float
    """Standard deviation of an arm's true accuracy between training seeds."""


CAUTIOUS = Spread(accuracy=0.5, arm_correlation=0.3, seed_correlation=0.6, seed_spread=0.02)
"""Assumed where nothing is known. Outcomes vary most where half of the problems are solved. Those of frontier models
correlate by 0.3 to 0.7 between models, as the publisher of Miller's "Adding error bars to evals" (arXiv 2411.00640)
reports: the least of it, since arms differ most by chance where they correlate least. That seeds of one arm agree more
than arms do is a guess. Twelve published retrainings of one 3B mix (OpenRSI-Index, learnability-cot) differed by 1.2
points on the mean of five benchmarks: more, since small students and few rows may vary more."""


def minimum_detectable(standard_error: float, degrees: float, *, power: float = POWER, alpha: float = ALPHA) -> float:
    """Smallest true difference that a two-sided t test of level `alpha` detects with this power, at most 1."""
    free = min(max(degrees, 1.0), NORMAL_DEGREES)
    bound = special.stdtrit(free, 1 - alpha / 2)
    return min(1.0, float(special.nctdtrinc(free, 1 - power, bound)) * standard_error)


def detectable_over_all(errors: Sequence[Error], num_candidates: int) -> float:
    """True difference from every arm to beat that is shown with 80 % power at least, after correction.

    Each of k comparisons may miss it in a k-th of the 20 %, at the level of the first of Holm's steps.

    Args:
        errors: of the comparisons of one candidate.
        num_candidates: over which Holm corrects.
    """
    power, alpha = 1 - (1 - POWER) / len(errors), ALPHA / num_candidates
    return max(minimum_detectable(one.error, one.degrees, power=power, alpha=alpha) for one in errors)


def planned_difference(terms: Sequence[Term], num_over: int = 1, num_candidates: int = 1) -> float:
    """As `detectable_over_all`, before the run: the difference that its test will show with 80 % power at least, at
    most 1.

    The test takes both the error and its degrees of freedom from the same few runs. What that costs is drawn here,
    since a t test of the expected degrees would promise 80 % where two seeds give 72.

    Args:
        terms: of the variance of each comparison, as `planned_terms` expects them; together above 0.
        num_over: arms that the candidate must beat.
        num_candidates: over which Holm corrects.
    """
    rng = np.random.default_rng(0)
    drawn = [one.variance * rng.chisquare(one.degrees, NUM_DRAWS) / one.degrees for one in terms]
    total = np.sum(drawn, axis=0)
    degrees = total**2 / sum(part**2 / one.degrees for part, one in zip(drawn, terms, strict=True))
    bounds = special.stdtrit(degrees, 1 - ALPHA / num_candidates / 2) * np.sqrt(total)
    luck = rng.normal(0, np.sqrt(sum(one.variance for one in terms)), NUM_DRAWS)
    return min(1.0, float(np.quantile(bounds - luck, 1 - (1 - POWER) / num_over)))


def planned_terms(problems: Sequence[int], seeds: int, spread: Spread) -> list[Term]:
    """The terms that `estimate` is expected to find in the variance of the difference between two arms.

    Args:
        problems: of each benchmark; the difference is that of the means over them. Of a single problem the variance
            is the largest one, as the test takes it.
        seeds: of each arm. Of one seed the error is that of these very weights.
        spread: of the outcomes. Several completions of a problem count as one, the cautious side. Where outcomes are
            taken not to vary, the variance is at least that of one discordant problem in each direction.
    """
    terms = _expected_terms(problems, seeds, spread)
    lack = 2 / sum(problems) ** 2 - sum(one.variance for one in terms)
    return [*terms, Term(lack, sum(count - 1 for count in problems) or 1)] if lack > 0 else terms


def _expected_terms(problems: Sequence[int], seeds: int, spread: Spread) -> list[Term]:
    weight = 1 / len(problems) ** 2
    variance = spread.accuracy * (1 - spread.accuracy)
    of_arms, of_seeds = (
        2 * variance * max(first - second, 0.0)
        for first, second in ((spread.seed_correlation, spread.arm_correlation), (1.0, spread.seed_correlation))
    )
    if seeds == 1:
        return [_problems_term(weight, of_arms + of_seeds, count) for count in problems]
    luck = spread.seed_spread**2 + sum(weight * of_seeds / 2 / count for count in problems)
    of_runs = [Term(luck / seeds, seeds - 1)] * 2
    return [*of_runs, *(_problems_term(weight, of_arms, count) for count in problems)]


def _problems_term(weight: float, variance: float, count: int) -> Term:
    if count == 1:
        return Term(weight * largest_variance(2), 1)
    return Term(weight * variance / count, count - 1)


def observed_spread(groups: Sequence[Sequence[Shares]]) -> Spread | None:
    """The spread of outcomes that were seen; None without two arms of several seeds.

    Args:
        groups: one per student and benchmark: of every trained arm its outcomes [runs, problems], the same problems.
    """
    found = [spread for group in groups for spread in _spread(group)]
    return Spread(*np.mean(found, axis=0)) if found else None


def _spread(group: Sequence[Shares]) -> Iterator[Spread]:
    """Of one student on one benchmark, from the covariances of its runs over the problems that all were graded on."""
    graded = ~np.isnan(np.concatenate(group)).any(axis=0)
    if len(group) < 2 or any(len(arm) < 2 for arm in group) or graded.sum() < 2:
        return
    runs = np.concatenate([arm[:, graded] for arm in group])
    arm_of = np.repeat(np.arange(len(group)), [len(arm) for arm in group])
    covariances, is_same = np.cov(runs), arm_of[:, None] == arm_of
    variance = float(np.diag(covariances).mean())
    if not variance:
        return
    of_seeds = float(covariances[is_same & ~np.eye(len(runs), dtype=bool)].mean()) / variance
    of_arms = float(covariances[~is_same].mean()) / variance
    luck = float(np.mean([arm[:, graded].mean(axis=1).var(ddof=1) for arm in group]))
    luck -= variance * (1 - of_seeds) / int(graded.sum())
    of_arms, of_seeds = (min(1.0, max(0.0, one)) for one in (of_arms, of_seeds))
    yield Spread(float(runs.mean()), of_arms, max(of_arms, of_seeds), max(0.0, luck) ** 0.5)
