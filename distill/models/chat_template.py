"""Chat messages to token ids, the same for teachers, training and evaluation.

A training row is the prompt exactly as an engine sees it, then the completion, then the token that ends the turn. The
chat template is not applied to the completion, because templates strip think blocks or add empty ones, while an engine
continues the prompt as it is. So the prompt's ids are a prefix of the row's ids by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from distill.core.errors import InputError
from serve.api.modes import append_to_system

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.config.teachers import ChatFormat

IGNORED = -100
"""Label of a token without loss."""

THINK_OPENING = "<think>"
COMPLETION_MARK = "completionmarkgoeshere"

NO_COMPLETION = "no_completion"
TOO_LONG = "too_long"
ENDS_INSIDE = "end_of_turn_inside"


class Rendered(NamedTuple):
    """Token ids of a row; the labels are the same ids for tokens with loss, else -100."""

    input_ids: list[int]
    labels: list[int]


def chat_messages(problem: str, chat: ChatFormat) -> list[dict[str, str]]:
    """The messages of a prompt: the system line, worked examples as earlier turns, the problem in its template."""
    turns = [{"role": "system", "content": chat.system}] if chat.system is not None else []
    for example in chat.examples:
        turns.append({"role": "user", "content": _user_turn(example.problem, chat)})
        turns.append({"role": "assistant", "content": example.completion})
    return [*turns, {"role": "user", "content": _user_turn(problem, chat)}]


def with_mode(chat: ChatFormat, line: str) -> ChatFormat:
    """The format for one mode of a student: the mode's line below the system line; unchanged if the line is empty."""
    return chat.model_copy(update={"system": append_to_system(chat.system, line)}) if line else chat


def _user_turn(problem: str, chat: ChatFormat) -> str:
    # Not str.format: problems and templates contain braces themselves (LaTeX, JSON).
    return chat.template.replace("{problem}", problem)


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt as text, including the template's generation prompt.

    Raises:
        InputError: The tokenizer has no chat template, or the template refuses these turns.
    """
    return _apply_template(tokenizer, messages, add_generation_prompt=True)


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The prompt's token ids as an engine sees them: the template's text, tokenised without adding special tokens.

    Raises:
        InputError: The tokenizer has no chat template, or the template refuses these turns.
    """
    return _encode(tokenizer, prompt_text(tokenizer, messages))


def render_example(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], max_length: int
) -> Rendered | str:
    """A training row whose last message has the loss, or the reason why it is dropped. Rows are never truncated.

    Raises:
        InputError: The tokenizer has no chat template, or the template refuses these turns.
    """
    if not messages or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        return NO_COMPLETION
    text = prompt_text(tokenizer, messages[:-1])
    completion = _encode(tokenizer, _without_open_think(text, messages[-1]["content"]))
    ending = end_of_turn(tokenizer)
    if ending[-1] in completion:
        return ENDS_INSIDE
    prompt, target = _encode(tokenizer, text), [*completion, *ending]
    if len(prompt) + len(target) > max_length:
        return TOO_LONG
    return Rendered(input_ids=[*prompt, *target], labels=[IGNORED] * len(prompt) + target)


@lru_cache(maxsize=16)
def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids after a completion, up to and including the token that ends the turn, so that the student learns to stop.

    It is the first special token that the template writes after an assistant turn, else the tokenizer's end of
    sequence. What the template writes after it (usually a line break) is never generated, so it is not learnt either.

    Raises:
        InputError: The model has neither, so a student could never learn to stop.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": COMPLETION_MARK}]
    _, mark, tail = _apply_template(tokenizer, turns, add_generation_prompt=False).rpartition(COMPLETION_MARK)
    if not mark:
        raise InputError(f"{_name(tokenizer)}: its chat template omits the assistant's turn -> {_REMEDY}")
    ids = _encode(tokenizer, tail)
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ends = [index for index, token in enumerate(ids) if token in special]
    if ends:
        return tuple(ids[: ends[0] + 1])
    if tokenizer.eos_token_id is None:
        raise InputError(f"{_name(tokenizer)}: neither its chat template nor its tokenizer ends a turn -> {_REMEDY}")
    return (int(tokenizer.eos_token_id),)


_REMEDY = "set a chat template that does in `models.NAME.chat_template` of the recipe"


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise InputError(f"{_name(tokenizer)}: no chat template -> set `models.NAME.chat_template` in the recipe")
    turns = [dict(message) for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt))
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise InputError(f"{_name(tokenizer)}: its chat template rejects the turns {roles}: {error}") from error


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _without_open_think(prompt: str, completion: str) -> str:
    """The completion without its opening think tag if the prompt already ends with one, as some templates write it."""
    if prompt.rstrip().endswith(THINK_OPENING) and completion.lstrip().startswith(THINK_OPENING):
        return completion.lstrip().removeprefix(THINK_OPENING)
    return completion


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"model {tokenizer.name_or_path or '(unnamed)'}"
