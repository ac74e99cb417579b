"""The inputs of the mix: the recipe, the traces on disk, and the students' models."""

from collections.abc import Mapping
from dataclasses import dataclass

from distill.config.mix import Mode
from distill.config.recipe import Recipe
from distill.config.teachers import ChatFormat
from distill.core.run_dir import RunDir
from distill.core.schema import Style
from distill.models.chat_template import with_mode
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


def longest_chat(recipe: Recipe) -> ChatFormat:
    """The format that traces are measured in: with the options of the first mode for long reasoning, if there is one.

    A template that closes the reasoning by default would rule out every long trace.
    """
    modes = [mix.modes[Style.LONG] for mix in recipe.mixes if Style.LONG in mix.modes]
    options = next((mode.template_options for mode in modes if mode.template_options), {})
    return with_mode(recipe.student_chat, Mode(template_options=options))
