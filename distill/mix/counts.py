"""From shares to whole numbers of prompts."""

from collections.abc import Mapping
from fractions import Fraction


def largest_remainder(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole counts that add up to `total`, each within one of weight x total; ties go to the first named pool."""
    exact = {pool: Fraction(str(weight)) * total for pool, weight in weights.items()}
    counts = {pool: int(share) for pool, share in exact.items()}
    by_remainder = sorted(weights, key=lambda pool: counts[pool] - exact[pool])
    for pool in by_remainder[: total - sum(counts.values())]:
        counts[pool] += 1
    return counts
