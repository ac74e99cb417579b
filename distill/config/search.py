"""Config of the search for the weights of arms with `weights = "auto"`."""

from collections.abc import Iterator, Mapping, Sequence
from math import comb
from typing import Any

from pydantic import Field

from distill.config.base import Section, items_of, seed_problems
from distill.config.mix import AutoMix, MixConfig
from distill.core.errors import Problem


class SearchConfig(Section):
    """Successive halving over mixes (Jamieson and Talwalkar, arXiv 1502.07943): every mix is tried in a short run, the
    better ones in longer runs, until one is left. That one is trained like any other arm."""

    benchmark: str
    """The development set: a name in `[benchmarks]` or a built-in benchmark, never one that is evaluated."""
    grid: int = Field(default=4, ge=2, le=20)
    """Weights are multiples of 1/grid; all mixes of the arm's pools on that grid are tried, single pools included."""
    num_steps: int = Field(ge=1)
    """Optimiser steps of each run in the first round."""
    keep: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of the mixes that are kept for the next round, rounded up; its runs take 1/keep times as many steps."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Training seeds of every short run."""


MAX_MIXES = 100
"""Most mixes that a search accepts: more short runs are not worth the wait."""


def search_problems(raw: Mapping[str, Any], mixes: Sequence[MixConfig], students: Sequence[str]) -> Iterator[Problem]:
    """Arms without weights and without `[search]`, a search without such arms, and an evaluated development set."""
    search, evaluate = raw.get("search"), raw.get("evaluate")
    arms = [mix for mix in mixes if isinstance(mix, AutoMix)]
    if arms and not search:
        what, remedy = 'weights = "auto", but the recipe has no search', "add a section [search]"
        yield Problem(f"mixes[{arms[0].name}].weights", what, remedy)
    yield from seed_problems("search.seeds", search.get("seeds") if isinstance(search, dict) else None)
    if search and not arms:
        yield Problem("search", 'no mix has weights = "auto"', "add one, or remove the section")
    for mix in arms:
        if len(mix.students) != 1 and len(students) > 1:
            what = "weights are searched for exactly one student"
            remedy = 'name it, as in students = ["NAME"], and add a mix for every further student'
            yield Problem(f"mixes[{mix.name}].students", what, remedy)
        if mix.modes:
            yield Problem(
                f"mixes[{mix.name}].modes", "a search does not support modes", "remove modes, or name the weights"
            )
        if isinstance(search, dict) and (many := num_mixes(len(mix.pools), search.get("grid", 4))) > MAX_MIXES:
            what = f"{many:,} mixes of {len(mix.pools)} pools, more than the {MAX_MIXES} that a search accepts"
            yield Problem("search.grid", what, "make the grid coarser, or name fewer pools")
    asked = items_of(evaluate.get("benchmarks")) if isinstance(evaluate, dict) else ()
    if isinstance(search, dict) and (name := search.get("benchmark")) in asked:
        what = f"{name!r} is evaluated: scores on the set that chose the mix must not be reported"
        yield Problem("search.benchmark", what, "choose another set, for example other problems of the same kind")


def num_mixes(num_pools: int, grid: object) -> int:
    """Mixes on a grid, as `distill.search.successive_halving.weight_grid` lists them."""
    return comb(grid + num_pools - 1, num_pools - 1) if isinstance(grid, int) and grid > 0 else 0
