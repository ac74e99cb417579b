"""Converts weights into whole numbers of prompts."""

from collections.abc import Mapping
from fractions import Fraction

from distill.config.mix import AutoMix, BothMix, MixConfig, PairsMix, StudentFitMix, WeightedTokensMix


def rows_by_pool(mix: MixConfig, num_common: int) -> dict[str, int]:
    """Pool -> rows that an arm takes from it with so many common prompts.

    Empty for policies that depend on the traces: their counts are unknown before all traces are written.
    """
    num_common = min(num_common, mix.num_prompts or num_common)
    if isinstance(mix, BothMix):
        return dict.fromkeys(mix.pools, num_common)
    if isinstance(mix, AutoMix | PairsMix | StudentFitMix | WeightedTokensMix):
        return {}
    return largest_remainder({pool: share or 0.0 for pool, share in sorted(mix.shares.items())}, num_common)


def describe_rows(mix: MixConfig, num_common: int) -> str:
    """`rows_by_pool` as text: `long 9, short 36`."""
    rows = ", ".join(f"{pool} {count}" for pool, count in rows_by_pool(mix, num_common).items())
    return rows or "chosen when all traces are written"


def largest_remainder(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole counts that add up to `total`, each within one of weight x total; ties go to the pool named first."""
    exact = {pool: Fraction(str(weight)) * total for pool, weight in weights.items()}
    counts = {pool: int(share) for pool, share in exact.items()}
    by_remainder = sorted(weights, key=lambda pool: counts[pool] - exact[pool])
    for pool in by_remainder[: total - sum(counts.values())]:
        counts[pool] += 1
    return counts
