"""Arms that learn from pairs: what of them does not go together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.config.arm_graph import arm_budgets
from distill.config.mix import MixConfig, PairsMix
from distill.config.objectives import Prefer
from distill.core.errors import Problem


def pair_problems(mix: MixConfig, pools: Mapping[str, int]) -> Iterator[Problem]:
    """Pairs that are imitated, a preference without pairs, pairs in modes, and pools in which there can be no pair.

    Args:
        mix: an arm.
        pools: name -> most traces per prompt.
    """
    where = f"mixes[{mix.name}]"
    if not isinstance(mix, PairsMix):
        if isinstance(mix.objective, Prefer):
            what = f'is "prefer", which learns from pairs, and the policy is {mix.policy!r}'
            yield Problem(f"{where}.objective", what, 'set policy = "pairs", or remove objective')
        return
    if not isinstance(mix.objective, Prefer):
        what = "is not set, and a rejected trace must not be imitated"
        yield Problem(f"{where}.objective", what, 'add objective = { kind = "prefer" }')
    if mix.modes:
        what = "both traces of a pair answer one prompt, and a mode asks for one style only"
        yield Problem(f"{where}.modes", what, "remove modes")
    counts = [pools[pool] for pool in mix.pools if pool in pools]
    if counts and sum(counts) < 2:
        what = f"{', '.join(mix.pools)} has one trace per prompt, and a pair is of two"
        yield Problem(f"{where}.pools", what, "raise teachers[].num_samples, or name another pool as well")
    if len(set(mix.by)) < len(mix.by):
        yield Problem(f"{where}.by", f"{', '.join(mix.by)} names a criterion twice", "name each once")


def unequal_pair_problems(train: Mapping[str, Any], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """Passes as the budget where an arm has as many examples as prompts with a pair: a number that no other has."""
    if train.get("budget", "epochs") != "epochs" or train.get("unmatched"):
        return
    budgets = arm_budgets(mixes, ())
    for mix in mixes:
        equal = [one for one in mixes if budgets[one.name] == budgets[mix.name]]
        if isinstance(mix, PairsMix) and any(_pairs_of(one) != _pairs_of(mix) for one in equal):
            names = ", ".join(one.name for one in equal)
            what = f"{mix.name} has an example per prompt with a pair: {names} would take unequal numbers of steps"
            remedy = 'set train.budget = "steps" with train.num_steps, or train.unmatched = true'
            yield Problem("train.budget", what, remedy)
            return


def _pairs_of(mix: MixConfig) -> Any:
    return (set(mix.pools), mix.by) if isinstance(mix, PairsMix) else None
