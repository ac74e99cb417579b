"""The inputs of the mix: the recipe, the traces on disk, and the students' models."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill.config.mix import Mode
from distill.config.recipe import Recipe
from distill.config.teachers import ChatFormat
from distill.core.run_dir import RunDir
from distill.core.schema import Style
from distill.models.chat_template import chat_messages, prompt_text, with_mode
from distill.models.resolve import ResolvedModel
from distill.models.thinking import prompt_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def closed_styles(recipe: Recipe, tokenizers: Iterable["PreTrainedTokenizerBase"]) -> frozenset[str]:
    """Styles that some arm asks for by a prompt which has closed the reasoning. Without modes all are asked for alike,
    as features are computed: then there are none, and no tokenizer is loaded.

    All arms teach the same prompts, so a trace that one of them could not teach is in none.
    """
    if not any(mix.prompt_modes for mix in recipe.mixes):
        return frozenset()
    routed = [target] if (target := recipe.filters.too_long_takes) else []
    style_of = {teacher.name: teacher.style for teacher in recipe.teachers}
    chats = [
        (style, with_mode(recipe.student_chat, mix.prompt_modes.get(style)))
        for mix in recipe.mixes
        for style in sorted({style_of[pool] for pool in (*mix.drawn, *routed)})
    ]
    return frozenset(
        str(style)
        for tokenizer in tokenizers
        for style, chat in chats
        if prompt_end(prompt_text(tokenizer, chat_messages("?", chat), chat.template_options)).closed
    )
