"""How many traces a teacher is asked for, on average, by the rules of `distill.generate.ask_policy`. Pure."""

from math import comb
from typing import NamedTuple


class ExpectedSamples(NamedTuple):
    """Expected outcome of a prompt that a teacher is asked."""

    traces: float
    """Mean number of traces."""
    solved: float
    """Chance that at least one is correct."""


def expected_samples(solve_rate: float, num_samples: int, num_correct: int, *, stop_early: bool) -> ExpectedSamples:
    """Expected samples, if every trace is correct with the same chance for every prompt."""
    solved = 1.0 - (1.0 - solve_rate) ** num_samples
    if not stop_early:
        return ExpectedSamples(float(num_samples), solved)
    asked = sum(_fewer_than(solve_rate, count, num_correct) for count in range(num_samples))
    return ExpectedSamples(asked, solved)


def _fewer_than(rate: float, trials: int, wanted: int) -> float:
    """Chance of fewer than `wanted` successes in so many trials: the prompt is asked once more."""
    return float(sum(comb(trials, k) * rate**k * (1.0 - rate) ** (trials - k) for k in range(min(wanted, trials + 1))))
