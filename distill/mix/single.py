"""`single`: one pool alone, the arm that a mix is compared with."""

import numpy as np

from distill.config_mix import SingleMix
from distill.mix.candidates import Candidates
from distill.mix.choice import Choice, uncut


def choose_single(mix: SingleMix, candidates: Candidates, seed: int) -> Choice:
    """The pool's trace for every common prompt."""
    prompts = np.arange(len(candidates))
    return uncut(prompts, np.full_like(prompts, candidates.pools.index(mix.pool)))
