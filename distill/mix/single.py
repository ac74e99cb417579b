"""`single`: one pool alone, the arm that a mix is compared with."""

import numpy as np

from distill.config_mix import SingleMix
from distill.mix.candidates import Candidates
from distill.mix.choice import Choice, one_per_prompt


def choose_single(mix: SingleMix, candidates: Candidates, seed: int) -> Choice:
    """The pool's trace for every common prompt."""
    return one_per_prompt(np.full(len(candidates), candidates.pools.index(mix.pool), dtype=np.int64))
