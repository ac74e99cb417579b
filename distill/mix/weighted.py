"""`weighted`: the paper's mix (arXiv 2502.12143). One trace per prompt; a pool's weight is its share of the prompts.

The seeded order of the prompts is cut at the exact counts, pools by name. With two pools, changing the weight moves
just the prompts between the two cuts, which is as few as can be. With more, a pool whose weight alone rises loses no
prompt, but pools between it and the one that pays hand some on.
"""

from distill.config_mix import PoolWeights
from distill.mix.candidates import Candidates
from distill.mix.choice import Choice, cut, exact_counts, seeded_order


def choose_weighted(mix: PoolWeights, candidates: Candidates, seed: int) -> Choice:
    """Exact counts by largest remainder, within every stratum as near as its size lets it."""
    counts = exact_counts(mix.name, dict(sorted(mix.weights.items())), candidates)
    order = seeded_order(candidates, seed, mix.stratify)
    return cut(order, counts, candidates.pools)
