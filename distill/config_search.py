"""The part of the config tree that says how weights are searched for arms with `weights = "auto"`."""

from pydantic import Field

from distill.config_section import Section


class SearchConfig(Section):
    """Successive halving over mixes (Jamieson and Talwalkar, arXiv 1502.07943): every mix is tried in a short run, the
    better ones in longer runs, until one is left, which is then trained like any other arm."""

    benchmark: str
    """The development set: a name in `[benchmarks]` or a built-in one, never one that is evaluated."""
    grid: int = Field(default=4, ge=2, le=20)
    """Weights are multiples of 1/grid; all mixes of the arm's pools on that grid are tried, pure ones included."""
    num_steps: int = Field(ge=1)
    """Optimiser steps of a run of the first round; the same for every mix of a round."""
    keep: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of the mixes that goes on to the next round, rounded up; its runs take 1/keep times as many steps."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Training seeds of every short run."""
