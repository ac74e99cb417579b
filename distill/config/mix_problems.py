"""What of the mixes, their modes, the merges and the filters does not go together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.config.base import one_of, repeated
from distill.config.mix import (
    AutoMix,
    BothMix,
    CurriculumMix,
    HardGetsLongMix,
    MergeConfig,
    MixConfig,
    Mode,
    PairsMix,
    PoolWeights,
    StudentFitMix,
)
from distill.core.errors import Problem
from distill.core.stage_names import NO_ARM_NAMES


def mix_problems(mix: MixConfig, pools: Mapping[str, int], students: Sequence[str]) -> Iterator[Problem]:
    """Unknown pools and students, weights that do not add up to 1, an order that does not match the weights.

    Args:
        mix: an arm.
        pools: name -> most traces per prompt.
        students: their names.
    """
    field = "weights" if isinstance(mix, PoolWeights | HardGetsLongMix) else "pool"
    where = f"mixes[{mix.name}].{'pools' if isinstance(mix, AutoMix | BothMix | PairsMix | StudentFitMix) else field}"
    for pool in mix.shares:
        if pool not in pools:
            yield Problem(where, f"no teacher is called {pool!r}", one_of(pool, pools))
    if mix.name in NO_ARM_NAMES:
        what = f"the mix stage's own file {mix.name}.parquet would take the place of its rows"
        yield Problem(f"mixes[{mix.name}].name", what, "give it another name")
    if isinstance(mix, PoolWeights | HardGetsLongMix):
        yield from _weight_problems(mix.name, mix.weights)
    if isinstance(mix, StudentFitMix) and mix.student not in students:
        what = f"no student is called {mix.student!r}"
        yield Problem(f"mixes[{mix.name}].student", what, one_of(mix.student, students))
    if isinstance(mix, AutoMix | BothMix | PairsMix | StudentFitMix) and len(set(mix.pools)) < len(mix.pools):
        yield Problem(where, f"{', '.join(mix.pools)} names a pool twice", "name each pool once")
    if twice := repeated(mix.students):
        yield Problem(f"mixes[{mix.name}].students", f"names {', '.join(twice)} twice", "name each student once")
    for student in mix.students:
        if student not in students:
            yield Problem(f"mixes[{mix.name}].students", f"no student is called {student!r}", one_of(student, students))
    is_by_rate = isinstance(mix, HardGetsLongMix) and mix.hardness == "pass_rate"
    if is_by_rate and all(pools.get(pool) == 1 for pool in mix.shares):
        what = "hardness is pass_rate, but every pool has one trace per prompt: all common prompts have a rate of 100 %"
        remedy = 'raise teachers[].num_samples, or use hardness = "level" or "length"'
        yield Problem(f"mixes[{mix.name}].hardness", what, remedy)
    if isinstance(mix, CurriculumMix | HardGetsLongMix) and sorted(mix.order) != sorted(mix.weights):
        what = f"{', '.join(mix.order)} are not the pools of weights ({', '.join(mix.weights)})"
        yield Problem(f"mixes[{mix.name}].order", what, "name every pool of weights once")


def mode_problems(mix: MixConfig, styles: Mapping[str, str], routes_to: str | None) -> Iterator[Problem]:
    """Modes whose style no pool of the arm has, pools whose style has no mode, and two modes with the same line.

    Args:
        mix: an arm.
        styles: pool -> its style.
        routes_to: `filters.too_long_takes`.
    """
    where = f"mixes[{mix.name}]"
    if mix.modes_in is None and mix.mode_weight is not None:
        what = f"{mix.mode_weight:g} has no effect: the modes are in the prompt, which is not learnt"
        yield Problem(f"{where}.mode_weight", what, 'remove it, or set modes_in = "completion"')
    if mix.modes_in and len(mix.modes) < 2:
        what = f"there is nothing to choose: the arm has {len(mix.modes) or 'no'} mode{'s' * (not mix.modes)}"
        yield Problem(f"{where}.modes_in", what, "remove it, or add modes")
    if not mix.modes:
        return
    drawn = [pool for pool in [*mix.shares, *filter(None, [routes_to])] if pool in styles]
    for style in mix.modes:
        if style not in {styles[pool] for pool in drawn}:
            what = f"no pool of the arm has the style {style}: {', '.join(drawn)}"
            yield Problem(
                f"mixes[{mix.name}].modes.{style}", what, "remove the line, or draw from a pool of that style"
            )
    for pool in drawn:
        if styles[pool] not in mix.modes:
            what = f"pool {pool!r} has the style {styles[pool]}, and no mode asks for {styles[pool]}"
            yield Problem(f"mixes[{mix.name}].modes", what, f'add {styles[pool]} = "..."')
    modes = list(mix.modes.values())
    for style, mode in mix.modes.items():
        where = f"mixes[{mix.name}].modes.{style}"
        if mode == Mode():
            yield Problem(where, "asks for nothing", "give it a line or template_options")
        elif mix.modes_in and (mode.template_options or not mode.line.strip()):
            what = "the student writes the mode itself, and template options are of the prompt"
            yield Problem(where, what, "give it a line alone, or remove modes_in")
        elif mix.modes_in and (mode.line != mode.line.strip() or "\n" in mode.line):
            yield Problem(where, f"{mode.line!r} is not one line without white space around it", "write it as one")
        elif modes.count(mode) > 1:
            yield Problem(where, "asks as another mode does", "give each its own line or template_options")


def _weight_problems(name: str, weights: Mapping[str, float]) -> Iterator[Problem]:
    total = sum(weights.values())
    if abs(total - 1.0) > 1e-9:
        terms = " + ".join(f"{weight:g}" for weight in weights.values())
        yield Problem(f"mixes[{name}].weights", f"{terms} = {total:g}, not 1", "make the weights add up to 1")


def merge_problems(merges: Sequence[MergeConfig], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """Unknown parents, weights that do not match them, and a name that a mix has already."""
    names = [mix.name for mix in mixes]
    for merge in merges:
        where = f"merges[{merge.name}]"
        for parent in merge.of:
            if parent not in names:
                yield Problem(f"{where}.of", f"no mix is called {parent!r}", one_of(parent, names))
        if len(set(merge.of)) < len(merge.of):
            yield Problem(f"{where}.of", f"{', '.join(merge.of)} names a mix twice", "name each mix once")
        if merge.name in names:
            yield Problem(where, f"a mix is also called {merge.name!r}", "give it another name")
        if merge.weights and len(merge.weights) != len(merge.of):
            what = f"{len(merge.weights)} weights for {len(merge.of)} mixes"
            yield Problem(f"{where}.weights", what, "give one per mix of `of`, or none")
        if merge.method == "linear" and abs(sum(merge.factors) - 1) > 1e-9:
            what = f"{' + '.join(f'{weight:g}' for weight in merge.weights)} = {sum(merge.weights):g}, not 1"
            yield Problem(f"{where}.weights", what, 'make them add up to 1, or use method = "task_arithmetic"')


def filter_problems(filters: Mapping[str, Any], mixes: Sequence[MixConfig], max_length: Any) -> Iterator[Problem]:
    """Bounds that no trace can meet, and a pool that no arm draws from."""
    target, pools = filters.get("too_long_takes"), {pool for mix in mixes for pool in mix.shares}
    if target is not None and mixes and target not in pools:
        what = f"no arm draws from a pool {target!r}"
        yield Problem("filters.too_long_takes", what, one_of(str(target), pools))
    low, high = filters.get("min_tokens", 1), filters.get("max_tokens") or max_length
    if isinstance(low, int) and isinstance(high, int) and low > high:
        what = f"no completion has at least {low} and at most {high} tokens"
        yield Problem("filters.min_tokens", what, "lower min_tokens, or raise max_tokens or train.max_length")
