"""`weighted`: the paper's mix (arXiv 2502.12143). One trace per prompt; a pool's weight is its share of the prompts.

The seeded order of the prompts is cut at the exact counts, pools by name. With two pools, changing the weight moves
just the prompts between the two cuts, which is as few as can be. With more, a pool whose weight alone rises loses no
prompt, but pools between it and the one that pays hand some on.

With `assign = "threshold"` the cuts are made through the hash's range instead, where a prompt's place is known without
the others: weights nest in the same way, and the counts are binomial around the exact ones.
"""

import numpy as np

from distill.config_mix import PoolWeights, WeightedMix
from distill.mix.candidates import Candidates
from distill.mix.choice import Choice, cut, exact_counts, refuse_empty, seeded_order
from distill.mix.order import order_hash

HASHES = 2.0**64


def choose_weighted(mix: PoolWeights, candidates: Candidates, seed: int) -> Choice:
    """Exact counts by largest remainder, within every stratum as near as its size lets it; or by threshold."""
    if isinstance(mix, WeightedMix) and mix.assign == "threshold":
        return choose_by_threshold(mix, candidates, seed)
    counts = exact_counts(mix.name, dict(sorted(mix.weights.items())), candidates)
    order = seeded_order(candidates, seed, mix.stratify)
    return cut(order, counts, candidates.pools)


def choose_by_threshold(mix: WeightedMix, candidates: Candidates, seed: int) -> Choice:
    """A prompt whose hash is in the k-th of the ranges that the weights divide [0, 1) into takes the k-th pool by name.

    Raises:
        StageError: a pool with weight got no prompt.
    """
    weights = dict(sorted(mix.weights.items()))
    codes = np.array([candidates.pools.index(pool) for pool in weights], dtype=np.int64)
    places = order_hash(candidates.prompt_keys, "assign", seed) / HASHES
    ranges = np.searchsorted(np.cumsum(list(weights.values()))[:-1], places, side="right")
    counts = np.bincount(ranges, minlength=len(weights)).tolist()
    refuse_empty(mix.name, weights, dict(zip(weights, counts, strict=True)), len(candidates))
    prompts = np.arange(len(candidates))
    phases = np.zeros_like(prompts)
    return Choice(prompts, codes[ranges], phases, np.argsort(np.argsort(places)))
