"""The teachers of a cell that matches them, from the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distill.config.decides import identity
from distill.config.match_problems import scorers
from distill.config.mix import Mix
from distill.config.objectives import Match
from distill.config.teachers import EngineConfig, VllmTeacher
from distill.train.rollouts.plan import RolloutPlan, Scorer

if TYPE_CHECKING:
    from distill.config.recipe import Recipe
    from distill.models.resolve import ResolvedModel
    from distill.train.cells import Cell


def cell_scorers(cell: Cell, recipe: Recipe, models: Mapping[str, ResolvedModel]) -> tuple[Scorer, ...]:
    """The teachers of a cell that matches them; none for another."""
    arm = recipe.arm_configs[cell.mix]
    if not isinstance(arm, Mix):
        return ()
    teachers = {one.name: one for one in recipe.teachers}
    found = [one for name in scorers(arm) if isinstance(one := teachers[name], VllmTeacher)]
    return tuple(Scorer(one.name, models[one.model].address, models[one.model].identity, one.chat) for one in found)


def scorers_key(found: tuple[Scorer, ...], engine: EngineConfig) -> list[Any]:
    """What of the scorers, and of the engine that writes for them, decides a cell's weights; empty without any."""
    return [[one.name, one.identity, identity(one.chat)] for one in found] + ([engine.limits] if found else [])


def rollout_plan(cell: Cell, recipe: Recipe, models: Mapping[str, ResolvedModel], student: str) -> RolloutPlan | None:
    """The plan of a cell; None unless it matches teachers. `student`: address of its parent's saved model."""
    if not isinstance(cell.objective, Match):
        return None
    found = cell_scorers(cell, recipe, models)
    return RolloutPlan(student, recipe.serve.engine, found, cell.objective.teacher is not None)
