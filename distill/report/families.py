"""Families of arms: those that are equal but for how much they are trained on (`num_prompts`, `num_steps`)."""

import math
import re
from collections.abc import Mapping, Sequence

from distill.config.mix import ArmBudget, MixConfig, arm_budgets
from distill.config.recipe import Recipe

OWN = {"name", "num_prompts", "num_steps"}
"""Fields of a mix that its family does not share."""

NUMBER = re.compile(r"[-._]\d+$")


def main_mixes(recipe: Recipe) -> list[MixConfig]:
    """The mixes that are trained on most prompts, in the steps of `[train]` where there are such."""
    most = max((mix.budget for mix in recipe.mixes), key=_amount)
    return [mix for mix in recipe.mixes if mix.budget == most]


def _amount(budget: ArmBudget) -> tuple[float, bool]:
    return math.inf if budget.num_prompts is None else budget.num_prompts, budget.num_steps is None


def arm_families(recipe: Recipe) -> dict[str, str]:
    """Every arm, by the names that its students are scored under -> name of its family.

    A family is named as its member without numbers of its own, else by its members' names without the number at the
    end.
    """
    keys = {mix.name: mix.model_dump_json(exclude=OWN) for mix in recipe.mixes}
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


def _family_name(members: Sequence[str], budgets: Mapping[str, ArmBudget]) -> str:
    plain = [name for name in members if budgets[name] == ArmBudget(None, None)]
    bases = {NUMBER.sub("", name) for name in members}
    return plain[0] if plain else bases.pop() if len(bases) == 1 < len(members) else members[0]
