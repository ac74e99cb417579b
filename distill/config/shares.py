"""From shares to whole numbers of prompts."""

from collections.abc import Mapping
from fractions import Fraction

from distill.config.mix import BothMix, MixConfig, StudentFitMix, WeightedMix, WeightedTokensMix


def mix_cells(mix: MixConfig, num_common: int) -> dict[str, int]:
    """Pool -> rows that an arm has of it with so many common prompts; on average, where each prompt is assigned alone.

    Empty for policies that look at the traces: they have no such numbers before they have seen them all.
    """
    if isinstance(mix, BothMix):
        return dict.fromkeys(mix.pools, num_common)
    if isinstance(mix, StudentFitMix | WeightedTokensMix):
        return {}
    return largest_remainder({pool: share or 0.0 for pool, share in sorted(mix.shares.items())}, num_common)


def describe_cells(mix: MixConfig, num_common: int) -> str:
    """The same for people: `long 9, short 36`."""
    rows = ", ".join(f"{pool} {count}" for pool, count in mix_cells(mix, num_common).items())
    about = "about " if isinstance(mix, WeightedMix) and mix.assign == "threshold" else ""
    return about + rows if rows else "chosen when all traces are there"


def largest_remainder(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole counts that add up to `total`, each within one of weight x total; ties go to the first named pool."""
    exact = {pool: Fraction(str(weight)) * total for pool, weight in weights.items()}
    counts = {pool: int(share) for pool, share in exact.items()}
    by_remainder = sorted(weights, key=lambda pool: counts[pool] - exact[pool])
    for pool in by_remainder[: total - sum(counts.values())]:
        counts[pool] += 1
    return counts
