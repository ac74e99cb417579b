"""Arms that are rewarded for their own answers: what of them does not go together."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from distill.config.arm_graph import arms_by_name, own_steps
from distill.config.base import section_of
from distill.config.match_problems import answer_room_problems
from distill.config.mix import BothMix, CurriculumMix, MergeConfig, MixConfig, PairsMix
from distill.config.objectives import Reinforce
from distill.config.students import StudentConfig
from distill.core.errors import Problem


def reinforce_problems(
    raw: Mapping[str, Any],
    mixes: Sequence[MixConfig],
    merges: Sequence[MergeConfig],
    students: Sequence[StudentConfig],
) -> Iterator[Problem]:
    """Rounds that the steps do not make up, students without an adapter, and rewards by length that come to nothing.

    Args:
        raw: the recipe as it was written.
        mixes: those that are valid by themselves, as are merges and students.
        merges: of the recipe.
        students: of the recipe.
    """
    arms, train = arms_by_name(mixes, merges), section_of(raw, "train")
    common = train.get("num_steps")
    for mix in mixes:
        if isinstance(mix.objective, Reinforce):
            where = f"mixes[{mix.name}].objective"
            steps = own_steps(mix, arms, common if isinstance(common, int) else None)
            yield from _round_problems(where, mix, mix.objective, train.get("budget", "epochs"), steps or common)
            yield from answer_room_problems(where, mix.objective, raw)
            yield from _length_problems(where, mix.objective)
            trained = [one for one in students if not mix.students or one.name in mix.students]
            if full := [one.name for one in trained if one.tune.kind != "lora"]:
                what = f"an adapter is what the engine is given in each round, and {', '.join(full)} trains all weights"
                yield Problem(where, what, 'set students.tune = { kind = "lora" }, or another objective')
            if spread := [one.name for one in trained if one.zero_stage == 3]:
                what = f"an adapter is what the engine is given in each round, and zero_stage 3 of {', '.join(spread)}"
                yield Problem(where, f"{what} spreads it over workers", "set students.zero_stage to 2 or less")


def _round_problems(
    where: str, mix: MixConfig, objective: Reinforce, budget: str, steps: int | None
) -> Iterator[Problem]:
    """`steps`: of the arm's own training, where the recipe says it."""
    if isinstance(mix, PairsMix | BothMix | CurriculumMix):
        what = f"the student answers each prompt by itself, and the policy is {mix.policy!r}"
        yield Problem(where, what, 'use policy = "weighted" or "single"')
    if budget == "tokens":
        what = 'train.budget is "tokens", and how many tokens the student writes is not known before'
        yield Problem(where, what, 'set train.budget = "steps"')
    size = objective.steps_per_round
    if budget == "epochs" and size > 1:
        what = f'a round has {size} steps, and train.budget is "epochs": how many there are is not known before'
        yield Problem(f"{where}.steps_per_round", what, 'set train.budget = "steps", or rounds of one step')
    if budget == "steps" and isinstance(steps, int) and steps % size:
        what = f"{size} does not divide the arm's {steps} steps: the last round would be shorter"
        yield Problem(f"{where}.steps_per_round", what, "set a divisor, or another num_steps")


def _length_problems(where: str, objective: Reinforce) -> Iterator[Problem]:
    levels = objective.length_levels
    if bool(levels) != bool(objective.length_cost):
        what = f"length_levels {list(levels)} and length_cost {objective.length_cost:g} have no effect by themselves"
        yield Problem(where, what, "set both, or none")
    if any(one >= other for one, other in pairwise((0, *levels, objective.max_tokens))):
        what = f"{list(levels)} do not rise from above 0 to below max_tokens = {objective.max_tokens}"
        yield Problem(f"{where}.length_levels", what, "order them, each once")
