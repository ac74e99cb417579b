"""`hard_gets_long`: one trace per prompt, the hardest prompts from the pool that is named first."""

import re

import numpy as np
from numpy.typing import NDArray

from distill.config_mix import HardGetsLongMix
from distill.errors import StageError
from distill.mix.candidates import Candidates, Labels
from distill.mix.choice import Choice, cut, exact_counts
from distill.mix.order import order_hash


def choose_hard_gets_long(mix: HardGetsLongMix, candidates: Candidates, seed: int) -> Choice:
    """Prompts from the hardest to the easiest, ties in the seeded order, cut at the exact counts."""
    counts = exact_counts(mix.name, {pool: mix.weights[pool] for pool in mix.order}, candidates)
    ranks = order_hash(candidates.prompt_keys, "assign", seed)
    order = np.lexsort((ranks, -hardness(mix, candidates)))
    return cut(order, counts, candidates.pools)


def hardness(mix: HardGetsLongMix, candidates: Candidates) -> NDArray[np.float64]:
    """[P], larger is harder.

    Raises:
        StageError: the level of a prompt has no number in it.
    """
    if mix.hardness == "pass_rate":
        return -candidates.pass_rates
    if mix.hardness == "length":
        mean: NDArray[np.float64] = candidates.tokens.mean(axis=1)
        return mean
    labels = candidates.labels["level"]
    return np.array([_level(name, mix.name, labels) for name in labels.names], dtype=np.float64)[labels.codes]


def _level(name: str, mix: str, labels: Labels) -> float:
    found = re.search(r"\d+(\.\d+)?", name)
    if found is None:
        count = int((labels.codes == labels.names.index(name)).sum())
        raise StageError(
            f"mix: mixes[{mix}] sorts prompts by level, but the level of {count} of {len(labels.codes)} is {name!r},"
            " which has no number -> name the column with numbers in prompts.sources[].columns.level,\n"
            '     or use hardness = "pass_rate" or "length"'
        )
    return float(found.group())
