"""Passes of a run: a teacher that is a trained student is asked after the pass that trains this student.

`model = "STUDENT@ARM"` in a teacher takes the student of an arm in place of a model: generate, verify, mix and train
run once without that teacher and all that draws from it, then again with it. What the earlier pass did is not repeated.
"""

from distill.config.pass_order import PassNumbers, trained_student
from distill.config.recipe import Recipe


def passes(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipe of every pass: the teachers and arms up to it. The last is the recipe itself."""
    numbers = recipe.pass_numbers
    return (*(_up_to(recipe, number, numbers) for number in range(1, numbers.last)), recipe)


def _up_to(recipe: Recipe, number: int, numbers: PassNumbers) -> Recipe:
    return recipe.model_copy(
        update={
            "teachers": tuple(one for one in recipe.teachers if numbers.teachers[one.name] <= number),
            "mixes": tuple(one for one in recipe.mixes if numbers.arms[one.name] <= number),
            "merges": tuple(one for one in recipe.merges if numbers.arms[one.name] <= number),
            "evaluate": recipe.evaluate.model_copy(update={"arms": ()}),  # it ends with its training
            "question": None,
        }
    )


def base_model(recipe: Recipe, model: str) -> str:
    """The key of `[models]` behind a teacher's `model`: of a trained student the one that it was trained from."""
    name = trained_student(model)
    return model if name is None else next(one.model for one in recipe.students if one.name == name.student)


def cell_name(recipe: Recipe, student: str, arm: str, seed: int) -> str:
    """What a training cell is called. The seed is part of the name only where there are several."""
    return f"{student}@{arm}" + (f"@{seed}" if len(recipe.train.seeds) > 1 else "")


def teaching_cell(recipe: Recipe, model: str) -> str:
    """The cell whose weights a teacher's `model` names; of several seeds the first, unless another is named."""
    name = trained_student(model)
    assert name is not None, f"{model} is one of [models]"
    return cell_name(recipe, name.student, name.arm, int(name.seed) if name.seed else recipe.train.seeds[0])
