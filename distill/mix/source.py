"""The inputs of the mix: the recipe, the traces on disk, and the students' models."""

from collections.abc import Mapping
from dataclasses import dataclass

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.models.resolve import ResolvedModel


@dataclass(frozen=True)
class MixSource:
    """The values that choosing and writing arms both need."""

    recipe: Recipe
    run_dir: RunDir
    folders: tuple[str, ...]
    """Folders of all pools, below `generate/`."""
    models: Mapping[str, ResolvedModel]

    def student_model(self, student: str) -> ResolvedModel:
        """The model of a student of the recipe."""
        return self.models[next(one.model for one in self.recipe.students if one.name == student)]
