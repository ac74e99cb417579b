"""Which arms start from which others (`after`, `of`), and how much an arm is trained on with all before it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from distill.config.base import circle, one_of
from distill.config.mix import AutoMix, MergeConfig, Mix, MixConfig
from distill.config.prompt_sets import sources_of
from distill.core.errors import Problem

ArmConfig = MixConfig | MergeConfig


class ArmBudget(NamedTuple):
    """What arms must have in common for a comparison of their traces."""

    num_prompts: int | None = None
    """Prompts that are taught; None: all common ones."""
    num_steps: int | None = None
    """Optimiser steps of their own; None: those of `[train]`."""
    sources: tuple[str, ...] = ()
    """Where the prompts are from; empty: all sources."""
    before: tuple["ArmBudget", ...] = ()
    """Of every mix that was trained before, also where only its steps are taken (`total_steps`)."""


def arms_by_name(mixes: Sequence[MixConfig], merges: Sequence[MergeConfig]) -> dict[str, ArmConfig]:
    """Every arm by its name in the recipe."""
    return {arm.name: arm for arm in (*mixes, *merges)}


def mixes_before(arm: ArmConfig, arms: Mapping[str, ArmConfig]) -> tuple[MixConfig, ...]:
    """The mixes whose steps are counted with an arm's own, each once; a merge itself takes no steps."""
    before = _reached(arm, arms, lambda one: one.comes_after)
    return tuple(one for one in before if not isinstance(one, MergeConfig))


def mixes_trained_before(arm: ArmConfig, arms: Mapping[str, ArmConfig]) -> tuple[MixConfig, ...]:
    """The mixes that an arm's weights were trained on before its own training, each once."""
    before = _reached(arm, arms, lambda one: one.starts_from)
    return tuple(one for one in before if not isinstance(one, MergeConfig))


def students_of(arm: ArmConfig, arms: Mapping[str, ArmConfig], students: Sequence[str]) -> tuple[str, ...]:
    """The students that an arm is trained on or merged for: those of all arms that its weights come from."""
    mixes = [one for one in (arm, *_reached(arm, arms, lambda one: one.starts_from)) if isinstance(one, Mix)]
    return tuple(name for name in students if all(not mix.students or name in mix.students for mix in mixes))


def _reached(
    arm: ArmConfig, arms: Mapping[str, ArmConfig], follow: Callable[[ArmConfig], Sequence[str]]
) -> tuple[ArmConfig, ...]:
    """All other arms that are reached from one; also where they lead round in a circle, or to a name that is none."""
    found: dict[str, ArmConfig] = {}
    names = list(follow(arm))
    while names:
        name = names.pop()
        if name in arms and name != arm.name and name not in found:
            found[name] = arms[name]
            names += follow(arms[name])
    return tuple(found.values())


def own_steps(mix: MixConfig, arms: Mapping[str, ArmConfig], common: int | None) -> int | None:
    """Optimiser steps of an arm's own training where they are not those of `[train]`, which are `common`."""
    if mix.total_steps is None or common is None:
        return mix.num_steps
    return sum(one.num_steps or common for one in (*mixes_before(mix, arms), mix))


def arm_budgets(mixes: Sequence[MixConfig], merges: Sequence[MergeConfig]) -> dict[str, ArmBudget]:
    """Every mix and merge, also by the names of its modes -> how much it is trained on.

    A merge has what all of its parents have.
    """
    arms = arms_by_name(mixes, merges)
    found = {name: _budget(mix, arms) for mix in mixes for name in (mix.name, *mix.arms)}
    for merge in merges:
        of_parents = {found[parent] for parent in merge.of if parent in found}
        found[merge.name] = of_parents.pop() if len(of_parents) == 1 else ArmBudget()
    return found


def _budget(mix: MixConfig, arms: Mapping[str, ArmConfig]) -> ArmBudget:
    before = [ArmBudget(one.num_prompts, one.num_steps, sources_of(one)) for one in mixes_before(mix, arms)]
    return ArmBudget(mix.num_prompts, mix.num_steps, sources_of(mix), tuple(sorted(before, key=str)))


def after_problems(
    train: Mapping[str, Any], mixes: Sequence[MixConfig], merges: Sequence[MergeConfig], students: Sequence[str]
) -> Iterator[Problem]:
    """An `after` that names no arm, leads back to its own arm, or names one that another student is trained on."""
    arms = arms_by_name(mixes, merges)
    for mix in mixes:
        where = f"mixes[{mix.name}]"
        if mix.after is None:
            if mix.total_steps is not None:
                what = 'is "with_parent", and no `after` says which arm is the parent'
                yield Problem(f"{where}.total_steps", what, "add after, as the arm has it that this is the control of")
        elif mix.after not in arms:
            what = f"no mix and no merge is called {mix.after!r}"
            yield Problem(f"{where}.after", what, one_of(mix.after, arms.keys() - {mix.name}))
        elif way := circle(mix.name, lambda name: arms[name].comes_after if name in arms else ()):
            what = f"leads back to {mix.name!r}: {' after '.join(way)}"
            yield Problem(f"{where}.after", what, "let one of them start without")
        else:
            yield from _stage_problems(mix, arms, train, students)


def _stage_problems(
    mix: MixConfig, arms: Mapping[str, ArmConfig], train: Mapping[str, Any], students: Sequence[str]
) -> Iterator[Problem]:
    """Problems of an arm whose parent is known."""
    where, parent = f"mixes[{mix.name}]", str(mix.after)
    if isinstance(mix, AutoMix):
        what = "weights are searched in short runs of the untouched student, not of another arm's"
        yield Problem(f"{where}.after", what, "name the weights, or remove after")
    missing = [name for name in mix.students or students if name not in students_of(arms[parent], arms, students)]
    if missing and mix.total_steps is None:
        what = f"{', '.join(missing)} is trained on {mix.name!r}, but not on {parent!r}"
        yield Problem(f"{where}.after", what, f"add it to the students of {parent!r}, or name students of {mix.name!r}")
    budget = train.get("budget", "epochs")
    if mix.total_steps is not None and budget == "epochs":
        what = 'is "with_parent", and train.budget is "epochs": passes over the rows decide the steps'
        yield Problem(f"{where}.total_steps", what, 'set train.budget = "steps" with train.num_steps')
