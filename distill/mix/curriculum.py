"""`curriculum`: the rows of `weighted`, taught pool by pool ("Scale or Reason?", arXiv 2509.22193: short, then long).

An order, not a choice: rows, epochs and steps are those of the shuffled arm.
"""

import numpy as np

from distill.config_mix import CurriculumMix
from distill.mix.candidates import Candidates
from distill.mix.choice import Choice
from distill.mix.weighted import choose_weighted


def choose_curriculum(mix: CurriculumMix, candidates: Candidates, seed: int) -> Choice:
    """The weighted choice; the phase of a row is the place of its pool in the order."""
    choice = choose_weighted(mix, candidates, seed)
    phases = np.full(len(candidates.pools), -1, dtype=np.int64)
    phases[[candidates.pools.index(pool) for pool in mix.order]] = np.arange(len(mix.order))
    return choice._replace(phases=phases[choice.pools])
