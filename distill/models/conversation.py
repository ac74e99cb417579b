"""How a model is to be talked to: where its turns end, whether its prompts open the reasoning, its template."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from distill.config.teachers import ChatFormat
from distill.models.chat_template import chat_messages, end_of_turn, has_special_tags, prompt_text
from distill.models.resolve import dated, unchanged_tokenizer
from distill.models.thinking import KNOWN, PromptEnd, prompt_end


@dataclass(frozen=True)
class Conversation:
    """What an endpoint needs to know of a model's chat template."""

    stop_token_ids: tuple[int, ...]
    """What ends its turn, as students are taught it."""
    chat_template: str | None
    """The template with a fixed date; None where the folder's own writes no date."""
    opens_reasoning: bool
    """The template can leave the model inside its reasoning."""
    keeps_special_tokens: bool
    """Its think tags are special tokens, which engines must leave in the text."""


@lru_cache(maxsize=64)
def conversation(folder: str) -> Conversation:
    """What is to be known of the model in a folder or at an address.

    Raises:
        InputError: it has no tokenizer or no chat template.
    """
    tokenizer, template = _loaded(folder)
    return Conversation(
        stop_token_ids=(end_of_turn(tokenizer)[-1],),
        chat_template=tokenizer.chat_template if tokenizer.chat_template != template else None,
        opens_reasoning=any(tags.start in str(template) for tags in KNOWN),
        keeps_special_tokens=has_special_tags(tokenizer),
    )


def prompt_start(folder: str, chat: ChatFormat) -> PromptEnd:
    """How the model's prompts in a format leave it: inside its reasoning, behind a closed block, or neither."""
    tokenizer, _ = _loaded(folder)
    return prompt_end(prompt_text(tokenizer, chat_messages("?", chat), chat.template_options))


@lru_cache(maxsize=16)
def _loaded(folder: str) -> tuple[Any, Any]:
    """The tokenizer, and its chat template as it is in the folder."""
    tokenizer = unchanged_tokenizer(folder)
    template = tokenizer.chat_template
    return dated(tokenizer), template
