"""The part of the config tree that says how weights are searched for arms with `weights = "auto"`."""

from collections.abc import Iterator, Mapping, Sequence
from math import comb
from typing import Any

from pydantic import Field

from distill.config.base import Section
from distill.config.mix import AutoMix, MixConfig
from distill.core.errors import Problem


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


MAX_MIXES = 100
"""More short runs than anybody waits for."""


def search_problems(raw: Mapping[str, Any], mixes: Sequence[MixConfig], students: Sequence[str]) -> Iterator[Problem]:
    """Weights left open without a search, a search without them, and a development set that would be reported."""
    search, evaluate = raw.get("search"), raw.get("evaluate")
    arms = [mix for mix in mixes if isinstance(mix, AutoMix)]
    if arms and not search:
        what, remedy = "weights are left open, and nothing says how to find them", "add a section [search]"
        yield Problem(f"mixes[{arms[0].name}].weights", what, remedy)
    if search and not arms:
        yield Problem("search", 'no mix has weights = "auto"', "add one, or remove the section")
    for mix in arms:
        if len(mix.students) != 1 and len(students) > 1:
            what = "weights are searched for one student"
            remedy = 'name it, as in students = ["NAME"], and add a mix for each'
            yield Problem(f"mixes[{mix.name}].students", what, remedy)
        if mix.modes:
            yield Problem(f"mixes[{mix.name}].modes", "a search knows no modes", "leave modes out, or name the weights")
        if isinstance(search, dict) and (many := num_mixes(len(mix.pools), search.get("grid", 4))) > MAX_MIXES:
            what = f"{many:,} mixes of {len(mix.pools)} pools, more than the {MAX_MIXES} that a search takes"
            yield Problem("search.grid", what, "make the grid coarser, or name fewer pools")
    asked = evaluate.get("benchmarks", ()) if isinstance(evaluate, dict) else ()
    if isinstance(search, dict) and (name := search.get("benchmark")) in asked:
        what = f"{name!r} is evaluated: what chose the mix must not be reported"
        yield Problem("search.benchmark", what, "choose another set, for example other problems of the same kind")


def num_mixes(num_pools: int, grid: object) -> int:
    """Mixes on a grid, as `distill.search.successive_halving.weight_grid` lists them."""
    return comb(grid + num_pools - 1, num_pools - 1) if isinstance(grid, int) and grid > 0 else 0
