"""Chat rows to token ids: the one place where that is decided, for teachers, training and evaluation alike.

A training row is the prompt exactly as an engine sees it, then the completion, then the token that ends the turn. The
chat template never touches the completion: templates strip think blocks or add empty ones, and an engine would
continue the prompt as it stands. So the prompt's ids are a prefix of the row's by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from distill.core.errors import InputError
from serve.api.modes import under_system

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.config.teachers import ChatFormat

IGNORED = -100
"""Label of a token that is not learnt."""

THINK_OPENING = "<think>"
COMPLETION_MARK = "completionmarkgoeshere"

NO_COMPLETION = "no_completion"
TOO_LONG = "too_long"
ENDS_INSIDE = "end_of_turn_inside"


class Rendered(NamedTuple):
    """Token ids of a row; labels are the same ids where the student learns, -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


def chat_messages(problem: str, chat: ChatFormat) -> list[dict[str, str]]:
    """The turns that ask a problem: system, worked examples as earlier turns, the problem through the template."""
    turns = [{"role": "system", "content": chat.system}] if chat.system is not None else []
    for example in chat.examples:
        turns.append({"role": "user", "content": _ask(example.problem, chat)})
        turns.append({"role": "assistant", "content": example.completion})
    return [*turns, {"role": "user", "content": _ask(problem, chat)}]


def with_mode(chat: ChatFormat, line: str) -> ChatFormat:
    """The format that asks for one mode of a student: the mode's line under the system line; as it is without one."""
    return chat.model_copy(update={"system": under_system(chat.system, line)}) if line else chat


def _ask(problem: str, chat: ChatFormat) -> str:
    # Not str.format: problems and templates hold braces of their own (LaTeX, JSON).
    return chat.template.replace("{problem}", problem)


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt as text, up to where the assistant starts to write.

    Raises:
        InputError: The tokenizer has no chat template, or the template refuses these turns.
    """
    return _apply_template(tokenizer, messages, add_generation_prompt=True)


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The prompt as an engine sees it: template, then one tokenisation that adds no second start token.

    Raises:
        InputError: The tokenizer has no chat template, or the template refuses these turns.
    """
    return _encode(tokenizer, prompt_text(tokenizer, messages))


def render_example(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], max_length: int
) -> Rendered | str:
    """A training row from chat turns of which the last is learnt, or the reason why it is dropped. Never cut.

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
    prompt, learnt = _encode(tokenizer, text), [*completion, *ending]
    if len(prompt) + len(learnt) > max_length:
        return TOO_LONG
    return Rendered(input_ids=[*prompt, *learnt], labels=[IGNORED] * len(prompt) + learnt)


@lru_cache(maxsize=16)
def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What follows a completion, up to and including the token that ends the turn: the student must learn to stop.

    The template says which token that is; where it writes none, it is the tokenizer's end of sequence. What the
    template writes after it (a line break, as a rule) is never generated and so never learnt.

    Raises:
        InputError: The model has neither, so a student could never learn to stop.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": COMPLETION_MARK}]
    _, mark, tail = _apply_template(tokenizer, turns, add_generation_prompt=False).rpartition(COMPLETION_MARK)
    if not mark:
        raise InputError(f"{_name(tokenizer)}: its chat template leaves out the assistant's turn; {_REMEDY}")
    ids = _encode(tokenizer, tail)
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ends = [position for position, token in enumerate(ids) if token in special]
    if ends:
        return tuple(ids[: ends[0] + 1])
    if tokenizer.eos_token_id is None:
        raise InputError(f"{_name(tokenizer)}: neither its chat template nor its tokenizer ends a turn; {_REMEDY}")
    return (int(tokenizer.eos_token_id),)


_REMEDY = "give one that does as `models.NAME.chat_template` in the recipe"


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise InputError(f"{_name(tokenizer)}: no chat template; give one as `models.NAME.chat_template` in the recipe")
    turns = [dict(message) for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt))
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise InputError(f"{_name(tokenizer)}: its chat template refuses the turns {roles}: {error}") from error


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _without_open_think(prompt: str, completion: str) -> str:
    """Some templates open the think block at the end of the prompt; the completion must not open it again."""
    if prompt.rstrip().endswith(THINK_OPENING) and completion.lstrip().startswith(THINK_OPENING):
        return completion.lstrip().removeprefix(THINK_OPENING)
    return completion


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"model {tokenizer.name_or_path or '(unnamed)'}"
