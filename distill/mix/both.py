"""`both`: a trace of every named pool for each prompt (LS-Mixture, arXiv 2505.03469).

The prompts are those of the other arms; the rows are as many times more as there are pools, and so are the steps.
"""

import numpy as np

from distill.config_mix import BothMix
from distill.mix.candidates import Candidates
from distill.mix.choice import Choice, uncut


def choose_both(mix: BothMix, candidates: Candidates, seed: int) -> Choice:
    """Prompts in order, the pools of each by name."""
    places = np.array(sorted(candidates.pools.index(pool) for pool in mix.pools), dtype=np.int64)
    prompts = np.repeat(np.arange(len(candidates)), len(places))
    return uncut(prompts, np.tile(places, len(candidates)))
