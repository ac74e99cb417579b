"""What can be wrong with the arms of a recipe and the filters before them."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import comb
from typing import Any

from distill.config_mix import (
    AutoMix,
    BothMix,
    CurriculumMix,
    HardGetsLongMix,
    MergeConfig,
    MixConfig,
    PoolWeights,
    SingleMix,
    StudentFitMix,
    WeightedMix,
)
from distill.errors import Problem

MAX_MIXES = 100
"""More short runs than anybody waits for."""


def one_of(word: str, known: Iterable[str]) -> str:
    """A remedy that names what there is, the closest first."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"


def mix_problems(mix: MixConfig, pools: Mapping[str, int], students: Sequence[str]) -> Iterator[Problem]:
    """Unknown pools, weights that are no shares, an order that is not one of the pools.

    `pools`: name -> most traces per prompt.
    """
    field = "weights" if isinstance(mix, PoolWeights | HardGetsLongMix) else "pool"
    where = f"mixes[{mix.name}].{'pools' if isinstance(mix, AutoMix | BothMix | StudentFitMix) else field}"
    for pool in mix.shares:
        if pool not in pools:
            yield Problem(where, f"no teacher fills a pool {pool!r}", one_of(pool, pools))
    if isinstance(mix, PoolWeights | HardGetsLongMix):
        yield from _weight_problems(mix.name, mix.weights)
    if isinstance(mix, StudentFitMix) and mix.student not in students:
        what = f"no student is called {mix.student!r}"
        yield Problem(f"mixes[{mix.name}].student", what, one_of(mix.student, students))
    if isinstance(mix, AutoMix | BothMix | StudentFitMix) and len(set(mix.pools)) < len(mix.pools):
        yield Problem(where, f"{', '.join(mix.pools)} names a pool twice", "name each pool once")
    for student in mix.students:
        if student not in students:
            yield Problem(f"mixes[{mix.name}].students", f"no student is called {student!r}", one_of(student, students))
    is_by_rate = isinstance(mix, HardGetsLongMix) and mix.hardness == "pass_rate"
    if is_by_rate and all(pools.get(pool) == 1 for pool in mix.shares):
        what = "hardness pass_rate, but every pool has one trace per prompt: all common prompts pass at 100 %"
        remedy = 'raise teachers[].num_samples, or use hardness = "level" or "length"'
        yield Problem(f"mixes[{mix.name}].hardness", what, remedy)
    if isinstance(mix, WeightedMix) and mix.assign and mix.stratify:
        what = "strata need all prompts, a threshold looks at one"
        yield Problem(f"mixes[{mix.name}].assign", what, "leave assign or stratify out")
    if isinstance(mix, CurriculumMix | HardGetsLongMix) and sorted(mix.order) != sorted(mix.weights):
        what = f"{', '.join(mix.order)} are not the pools of weights, {', '.join(mix.weights)}"
        yield Problem(f"mixes[{mix.name}].order", what, "name every pool of weights once")


def mode_problems(mix: MixConfig, styles: Mapping[str, str], routes_to: str | None) -> Iterator[Problem]:
    """Modes that no trace of the arm has, traces without a mode, and modes that a reader could not tell apart.

    Args:
        mix: an arm.
        styles: pool -> its style.
        routes_to: pool that prompts whose traces are too long take theirs from; none without one.
    """
    if not mix.modes:
        return
    drawn = [pool for pool in [*mix.shares, *filter(None, [routes_to])] if pool in styles]
    for style in mix.modes:
        if style not in {styles[pool] for pool in drawn}:
            what = f"no pool of the arm is written in the style {style}: {', '.join(drawn)}"
            yield Problem(
                f"mixes[{mix.name}].modes.{style}", what, "remove the line, or draw from a pool of that style"
            )
    for pool in drawn:
        if styles[pool] not in mix.modes:
            what = f"pool {pool!r} is {styles[pool]}, and no line asks for {styles[pool]}"
            yield Problem(f"mixes[{mix.name}].modes", what, f'add {styles[pool]} = "..."')
    if len(set(mix.modes.values())) < len(mix.modes):
        yield Problem(f"mixes[{mix.name}].modes", "two modes have the same line", "give each a line of its own")


def _weight_problems(name: str, weights: Mapping[str, float]) -> Iterator[Problem]:
    total = sum(weights.values())
    if abs(total - 1.0) > 1e-9:
        terms = " + ".join(f"{weight:g}" for weight in weights.values())
        yield Problem(f"mixes[{name}].weights", f"{terms} = {total:g}, not 1", "make the weights add up to 1")


def early_problems(train: Mapping[str, Any], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """Training that begins on the first prompts, with a plan or arms that depend on those still to come."""
    if train.get("early_prompts") is None:
        return
    if train.get("budget", "epochs") != "steps":
        what = f"train.budget is {train.get('budget', 'epochs')!r}: how many steps there are depends on prompts to come"
        yield Problem("train.early_prompts", what, 'set train.budget = "steps" with train.num_steps')
    if train.get("held_out_prompts") is not None:
        what = "is set, and which prompts are held out depends on prompts to come"
        yield Problem("train.held_out_prompts", what, "leave it or train.early_prompts out")
    for mix in mixes:
        is_alone = isinstance(mix, WeightedMix) and mix.assign == "threshold" and not mix.stratify
        if not (is_alone or isinstance(mix, SingleMix | BothMix)):
            what = "train.early_prompts, but which trace a prompt takes here depends on the prompts to come"
            remedy = 'policy = "weighted" with assign = "threshold" and no stratify, or leave train.early_prompts out'
            yield Problem(f"mixes[{mix.name}]", what, remedy)


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
    """Mixes on a grid, as `distill.halving.weight_grid` lists them."""
    return comb(grid + num_pools - 1, num_pools - 1) if isinstance(grid, int) and grid > 0 else 0


def merge_problems(merges: Sequence[MergeConfig], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """Parents that are not there, weights that do not go with them, and a name that an arm has already."""
    names = [mix.name for mix in mixes]
    for merge in merges:
        where = f"merges[{merge.name}]"
        for parent in merge.of:
            if parent not in names:
                yield Problem(f"{where}.of", f"no mix is called {parent!r}", one_of(parent, names))
        if len(set(merge.of)) < len(merge.of):
            yield Problem(f"{where}.of", f"{', '.join(merge.of)} names a mix twice", "name each mix once")
        if merge.name in names:
            yield Problem(where, f"a mix is called {merge.name!r} as well", "give it another name")
        if merge.weights and len(merge.weights) != len(merge.of):
            what = f"{len(merge.weights)} weights for {len(merge.of)} mixes"
            yield Problem(f"{where}.weights", what, "give one per mix of `of`, or none")
        if merge.method == "linear" and abs(sum(merge.factors) - 1) > 1e-9:
            what = f"{' + '.join(f'{weight:g}' for weight in merge.weights)} = {sum(merge.weights):g}, not 1"
            yield Problem(f"{where}.weights", what, 'make them add up to 1, or use method = "task_arithmetic"')


def filter_problems(filters: Mapping[str, Any], mixes: Sequence[MixConfig], max_length: Any) -> Iterator[Problem]:
    """Bounds that no trace can meet, and a pool that no arm has."""
    target, pools = filters.get("too_long_takes"), {pool for mix in mixes for pool in mix.shares}
    if target is not None and mixes and target not in pools:
        what = f"no arm draws from a pool {target!r}"
        yield Problem("filters.too_long_takes", what, one_of(str(target), pools))
    low, high = filters.get("min_tokens", 1), filters.get("max_tokens") or max_length
    if isinstance(low, int) and isinstance(high, int) and low > high:
        what = f"no completion has at least {low} and at most {high} tokens"
        yield Problem("filters.min_tokens", what, "lower min_tokens, or raise max_tokens or train.max_length")
