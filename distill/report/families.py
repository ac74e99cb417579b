"""Families of arms: those that are equal but for how much they are trained on (`num_prompts`, `num_steps`)."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from distill.config.arm_graph import ArmBudget, arm_budgets
from distill.config.mix import MergeConfig, Mix, MixConfig, PairsMix
from distill.config.objectives import IMITATE, Objective
from distill.config.recipe import Recipe

OWN = {"name", "num_prompts", "num_steps"}
"""Fields of a mix that its family does not share."""
STEPS_OF_STAGES = {"after", "total_steps"}
"""Fields of an arm in one stage that only say how many steps it takes."""

NUMBER = re.compile(r"[-._]\d+$")


class UnequalPair(NamedTuple):
    """A blend and a pure arm with unequal steps, and the same mixes with the steps of `[train]`; names of arms."""

    blend: str
    pure: str
    matched_blend: str
    matched_pure: str


def main_mixes(recipe: Recipe) -> list[MixConfig]:
    """The mixes that are trained on most prompts, in the steps of `[train]` where there are such."""
    budgets = arm_budgets(recipe.mixes, ())
    most = max((budgets[mix.name] for mix in recipe.mixes), key=_amount)
    return [mix for mix in recipe.mixes if budgets[mix.name] == most]


def objective_of(mix: Mix) -> Objective:
    """What an arm learns from its rows, which are imitated where the recipe names nothing else."""
    return mix.objective or IMITATE


def told_by_traces(mixes: Sequence[MixConfig]) -> list[MixConfig]:
    """Of arms that are trained on equally much those whose traces alone may explain a difference between them.

    They have one objective: imitation where any arm imitates, else the one that all share; no arm where they have
    several. Arms of pairs are never among them: both sides of a pair are traces, and the pairs decide their shares.
    """
    single: list[MixConfig] = [mix for mix in mixes if not isinstance(mix, PairsMix)]
    imitating = [mix for mix in single if objective_of(mix) == IMITATE]
    is_one = bool(single) and all(objective_of(mix) == objective_of(single[0]) for mix in single)
    return imitating or (single if is_one else [])


def merges_of(
    mixes: Sequence[MixConfig], merges: Sequence[MergeConfig], all_mixes: Sequence[MixConfig]
) -> list[MergeConfig]:
    """The merges of students that were all taught with the objective of these arms, which have one."""
    taught = {mix.name: objective_of(mix) for mix in all_mixes if not isinstance(mix, PairsMix)}
    return [merge for merge in merges if mixes and all(taught.get(name) == objective_of(mixes[0]) for name in merge.of)]


def budget_words(budget: ArmBudget) -> str:
    """`400 prompts`, `24 steps`, both, or `all prompts`; then where they are from, and what was trained before."""
    prompts = "all prompts" if budget.num_prompts is None else f"{budget.num_prompts:,} prompts"
    prompts += f" of {' and '.join(budget.sources)}" if budget.sources else ""
    words = prompts if budget.num_steps is None else f"{prompts}, {budget.num_steps:,} steps"
    return " after ".join([words, *map(budget_words, budget.before)])


def _amount(budget: ArmBudget) -> tuple[bool, bool, float, bool]:
    prompts = math.inf if budget.num_prompts is None else budget.num_prompts
    return not budget.before, not budget.sources, prompts, budget.num_steps is None


def arm_families(recipe: Recipe) -> dict[str, str]:
    """Every arm, by the names that its students are scored under -> name of its family.

    A family is named as its member without numbers of its own, else by its members' names without the number at the
    end.
    """
    keys = {
        mix.name: mix.model_dump_json(exclude=OWN | (STEPS_OF_STAGES if mix.total_steps else set()))
        for mix in recipe.mixes
    }
    for merge in recipe.merges:
        parents = [keys.get(parent, parent) for parent in merge.of]
        keys[merge.name] = merge.model_dump_json(exclude={"name", "of"}) + "".join(parents)
    members: dict[str, list[str]] = {}
    for name, key in keys.items():
        members.setdefault(key, []).append(name)
    budgets = arm_budgets(recipe.mixes, recipe.merges)
    names = {key: _family_name(listed, budgets) for key, listed in members.items()}
    return {
        arm: names[keys[one.name]] + (f":{mode}" if mode else "")
        for one in (*recipe.mixes, *recipe.merges)
        for arm, mode in one.arms.items()
    }


def unequal_pairs(recipe: Recipe) -> list[UnequalPair]:
    """Every blend against each of its pools alone where one of the two has a number of steps of its own.

    A mix without one of its own takes part with the steps of `[train]`.
    """
    return list(dict.fromkeys(_unequal_pairs(recipe)))


def _unequal_pairs(recipe: Recipe) -> Iterator[UnequalPair]:
    families, common = arm_families(recipe), recipe.train.num_steps
    versions: dict[tuple[str, int | None], list[MixConfig]] = {}
    for mix in recipe.mixes:
        versions.setdefault((families[next(iter(mix.arms))], mix.num_prompts), []).append(mix)
    matched = {key: mix for key, mixes in versions.items() for mix in mixes if mix.num_steps is None}
    for blend, pure in itertools.product(matched, matched):
        mixes = matched[blend], matched[pure]
        is_pair = blend[1] == pure[1] and len(mixes[0].drawn) > 1 and len(mixes[1].drawn) == 1
        is_pair = is_pair and len(told_by_traces(mixes)) == 2
        if not is_pair or not {*mixes[1].drawn} <= {*mixes[0].drawn}:
            continue
        own = _unequal(_own(versions[blend]), _own(versions[pure]), common)
        for first, second in own or _unequal(versions[blend], versions[pure], common):
            for arm, matched_arm in zip(first.arms, mixes[0].arms, strict=True):
                yield UnequalPair(arm, second.name, matched_arm, mixes[1].name)


def _unequal(
    blends: Sequence[MixConfig], pures: Sequence[MixConfig], common: int | None
) -> list[tuple[MixConfig, MixConfig]]:
    pairs = itertools.product(blends, pures)
    return [(first, second) for first, second in pairs if (first.num_steps or common) != (second.num_steps or common)]


def _own(versions: Sequence[MixConfig]) -> Sequence[MixConfig]:
    """Those with steps of their own, or else all."""
    return [mix for mix in versions if mix.num_steps is not None] or versions


def _family_name(members: Sequence[str], budgets: Mapping[str, ArmBudget]) -> str:
    plain = [name for name in members if budgets[name] == ArmBudget()]
    bases = {NUMBER.sub("", name) for name in members}
    return plain[0] if plain else bases.pop() if len(bases) == 1 < len(members) else members[0]
