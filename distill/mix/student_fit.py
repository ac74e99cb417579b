"""`student_fit`: of the pools' traces for a prompt the one that fits a student best (GRAPE, arXiv 2502.04194, by mean
negative log-likelihood; arXiv 2601.14249 by rank-surprisal ratio)."""

import numpy as np

from distill.config_mix import StudentFitMix
from distill.mix.candidates import Candidates
from distill.mix.choice import Choice, uncut


def choose_student_fit(mix: StudentFitMix, candidates: Candidates, seed: int) -> Choice:
    """The lowest score among the named pools; of equal ones the pool that is first by name."""
    places = np.array(sorted(candidates.pools.index(pool) for pool in mix.pools), dtype=np.int64)
    scores = candidates.fits[f"{mix.student}/{mix.score}"][:, places]
    return uncut(np.arange(len(candidates)), places[np.argmin(scores, axis=1)])
