"""What can be wrong with the arms of an evaluation that no training makes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.config_mix import MixConfig
from distill.errors import Problem
from distill.recipe_checks_mix import one_of


def speculative_problems(
    evaluate: Mapping[str, Any], students: Sequence[str], mixes: Sequence[MixConfig], seeds: Sequence[Any]
) -> Iterator[Problem]:
    """A helped student or a helper that the recipe does not have, and an arm that is there twice.

    Args:
        evaluate: the section as it was written.
        students: names of the students.
        mixes: the arms that parse.
        seeds: training seeds; with several, a trained model carries its own in its name.
    """
    tails = [f"@{seed}" for seed in seeds] if len(seeds) > 1 else [""]
    cells = [(f"{student}@{mix.name}{tail}", mix) for student in students for mix in mixes for tail in tails]
    served = [*students, *(cell for cell, _ in cells)]
    scored = [*students, *(f"{cell}:{mode}" if mode else cell for cell, mix in cells for mode in mix.arms.values())]
    arms = [arm for arm in evaluate.get("speculative", ()) if isinstance(arm, dict)]
    pairs = [(str(arm.get("student")), _helper(arm)) for arm in arms]
    for place, (student, helper) in enumerate(pairs):
        where = f"evaluate.speculative[{place}]"
        if student not in scored:
            yield Problem(f"{where}.student", f"no model is scored as {student!r}", one_of(student, scored))
        if helper not in served:
            yield Problem(f"{where}.helper.model", f"no model is served as {helper!r}", one_of(helper, served))
        if (student, helper) in pairs[:place]:
            yield Problem(where, f"{student}+{helper} is there twice", "keep one: both would be scored under one name")


def _helper(arm: Mapping[str, Any]) -> str:
    helper = arm.get("helper")
    return str(helper.get("model")) if isinstance(helper, dict) else ""
