"""The evaluation arms of a recipe as models: whose weights answer, under which name, in which way."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from distill.config.eval_arms import AnsweringPlan
from distill.config.passes import cell_name
from distill.config.recipe import Recipe
from distill.core.schema import content_hash
from distill.evaluate.models import EvaluatedModel, mode_name
from distill.train.cells import all_cells


class ArmOf(NamedTuple):
    """One model made to answer in one way."""

    base: str
    """Name of the model as it answers by itself; of a student that is left to choose its mode its served name."""
    plan: AnsweringPlan

    @property
    def name(self) -> str:
        """Name that it is scored under."""
        return self.base + self.plan.suffix


def arms_of(recipe: Recipe) -> Iterator[ArmOf]:
    """Every evaluation arm, once for each training seed and each budget."""
    students, cells = {student.name for student in recipe.students}, all_cells(recipe)
    modes = {one.name: dict.fromkeys([*one.arms.values(), ""]) for one in (*recipe.mixes, *recipe.merges)}
    for arm in recipe.evaluate.arms:
        for of, plan in product(arm.answering, arm.plans):
            if of in students:
                yield ArmOf(of, _resolved(recipe, plan, recipe.train.seeds[0]))
            for cell in cells:
                for mode in modes[cell.mix]:
                    if of == mode_name(f"{cell.student.name}@{cell.mix}", mode):
                        yield ArmOf(mode_name(cell.name, mode), _resolved(recipe, plan, cell.seed))


def arm_models(recipe: Recipe, models: Sequence[EvaluatedModel]) -> list[EvaluatedModel]:
    """The evaluation arms as models, each with a key of its own: a changed arm leaves the scores of the others."""
    by_name = {model.name: model for model in models}
    by_served = {model.served_name: model for model in models}
    found = []
    for arm in arms_of(recipe):
        base = by_name.get(arm.base) or replace(by_served[arm.base], mode="", asked_as=None)
        partner = [by_served[arm.plan.partner].key] if arm.plan.partner else []
        # Whether it may open its reasoning is found by the mix stage, which may look again at rows of the same weights.
        own = [] if base.is_marked else ["unmarked"]
        key = content_hash("answers", base.key, arm.plan.identity, *partner, *own)
        found.append(replace(base, name=arm.name, key=key, plan=arm.plan))
    return found


def _resolved(recipe: Recipe, plan: AnsweringPlan, seed: int) -> AnsweringPlan:
    """A plan with its partner under the name that it is served under: of a trained one, that of the same seed."""
    student, _, arm = plan.partner.partition("@")
    return plan.with_partner(cell_name(recipe, student, arm, seed) if arm else student)


def arm_name(mix: str, suffix: str) -> str:
    """Name of an evaluation arm in the report, where the mix is empty for an untouched student."""
    return f"{mix or 'untouched'}{suffix}"


def bases_of(recipe: Recipe) -> Mapping[str, list[str]]:
    """Evaluation arm -> the arms that it is compared with, by the names of the report: itself without a plan.

    Of a student that is left to choose its mode they are all of its modes.
    """
    arms = {one.name: list(one.arms) for one in (*recipe.mixes, *recipe.merges)}
    found: dict[str, list[str]] = {}
    for arm in recipe.evaluate.arms:
        for of, plan in product(arm.answering, arm.plans):
            mix = of.partition("@")[2]
            found.setdefault(arm_name(mix, plan.suffix), arms[mix] if arm.mode else [mix])
    return found
