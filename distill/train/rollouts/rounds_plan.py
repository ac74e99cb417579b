"""What a cell's rounds need, from the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.config.mix import Mix
from distill.config.objectives import Objective, Reinforce
from distill.config.teachers import EngineConfig
from distill.config.verify import VerifyConfig
from distill.core.schema import AnswerKind
from distill.core.verifier_version import verifier_version

if TYPE_CHECKING:
    from distill.config.recipe import Recipe


@dataclass(frozen=True)
class RoundsPlan:
    """What a cell that is rewarded for its answers needs beside its rows."""

    engine: EngineConfig
    verify: VerifyConfig
    reasoning_end: str
    """What ends the reasoning of an answer; empty: nothing does."""
    openings: tuple[str, ...]
    """Lines of which one begins an answer, of a student that writes its mode itself."""


def rounds_plan(mix: str, objective: Objective, recipe: Recipe) -> RoundsPlan | None:
    """The plan of an arm's cells; None unless they are rewarded for their own answers."""
    arm = recipe.arm_configs[mix]
    if not isinstance(objective, Reinforce) or not isinstance(arm, Mix):
        return None
    openings = tuple(arm.openings.values())
    return RoundsPlan(recipe.serve.engine, recipe.verify, recipe.evaluate.reasoning_end, openings)


def rounds_key(plan: RoundsPlan | None) -> list[Any]:
    """What of it decides a cell's weights: verdicts, how much of an answer says its mode, the engine's limits."""
    if plan is None:
        return []
    return ["rounds", verifier_version(AnswerKind), plan.reasoning_end, list(plan.openings), plan.engine.limits]
