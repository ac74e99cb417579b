"""Chat messages to token ids, the same for teachers, training, evaluation and serving: one rendering, one end.

A training row is the prompt exactly as an engine sees it, then the completion as the model would go on from it, then
the token that ends the turn. The chat template is not applied to the completion, because templates strip think blocks
or add empty ones, while an engine continues the prompt as it is. So the prompt's ids are a prefix of the row's ids by
construction.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from distill.core.errors import InputError
from distill.models.template_options import NO_OPTIONS, options_text, read_options
from distill.models.thinking import KNOWN, TAG_TOKENS, THINKING_CLOSED, PromptEnd, continuation_after, prompt_end
from serve.api.modes import append_to_system

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.config.mix import Mode
    from distill.config.teachers import ChatFormat

RENDERING_VERSION = 4
"""Raised when rows are rendered differently, so that cells of the old rendering are trained again."""

IGNORED = -100
"""Label of a token without loss."""

TEMPLATE_DAY = datetime.date(2026, 1, 1)
"""Today, for templates that write a date into the prompt. Always the same day: a student is trained, scored and served
with one prompt, whenever that is."""

PUBLISHED_MARKS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|eom_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|turn>",
    "<turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
"""Marks of turns in published models. In a trace of another model they are no token of the student's, and no answer."""

PUBLISHED_ENDS = (*PUBLISHED_MARKS, "</s>", "<eos>", "<|end|>", "<|eot|>", "<|return|>", "<|END_RESPONSE|>")
"""Ends that data sets keep behind a trace. Inside a text some of these are tags that mean something else."""

COMPLETION_MARK = "completionmarkgoeshere"

NO_COMPLETION = "no_completion"
TOO_LONG = "too_long"
ENDS_INSIDE = "end_of_turn_inside"


class Rendered(NamedTuple):
    """Token ids of a row; the labels are the same ids for tokens with loss, else -100."""

    input_ids: list[int]
    labels: list[int]


def chat_messages(problem: str, chat: ChatFormat, trace: str | None = None) -> list[dict[str, str]]:
    """The messages of a prompt: the system text, worked examples as earlier turns, the problem in its template.

    `trace`: what a teacher that reads is shown.
    """
    turns = []
    for example in chat.examples:
        turns.append({"role": "user", "content": _user_turn(chat, example.problem, example.trace)})
        turns.append({"role": "assistant", "content": example.completion})
    turns.append({"role": "user", "content": _user_turn(chat, problem, trace)})
    if chat.system is None:
        return turns
    if chat.system_as == "user":
        return [{**turns[0], "content": f"{chat.system}\n\n{turns[0]['content']}"}, *turns[1:]]
    return [{"role": "system", "content": chat.system}, *turns]


def example_turns(chat: ChatFormat) -> list[dict[str, str]]:
    """The worked examples alone, as the turns that stand before the question."""
    return chat_messages("", chat.model_copy(update={"system": None}))[:-1]


def with_mode(chat: ChatFormat, mode: Mode | None) -> ChatFormat:
    """The format for one mode of a student: the mode's line below the system text, its options beside the others."""
    if mode is None:
        return chat
    options = {**chat.template_options, **mode.template_options}
    system = append_to_system(chat.system, mode.line) if mode.line else chat.system
    return chat.model_copy(update={"system": system, "template_options": options})


def _user_turn(chat: ChatFormat, problem: str, trace: str | None) -> str:
    # Not str.format: problems and templates contain braces themselves (LaTeX, JSON). In one pass: a problem may hold
    # the other's name.
    texts = {"{problem}": problem} | ({} if trace is None else {"{trace}": trace})
    return re.sub("|".join(map(re.escape, texts)), lambda found: texts[found[0]], chat.template)


def prompt_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    options: Mapping[str, Any] = NO_OPTIONS,
) -> str:
    """The prompt as text, including the template's generation prompt. `options`: variables of the template.

    Raises:
        InputError: The tokenizer has no chat template, or the template refuses these turns.
    """
    return prompt_texts(tokenizer, [messages], options)[0]


def prompt_texts(
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Sequence[Mapping[str, str]]],
    options: Mapping[str, Any] = NO_OPTIONS,
) -> list[str]:
    """`prompt_text` of each of these conversations, in one call."""
    return _apply_template(tokenizer, asked, options, add_generation_prompt=True)


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    options: Mapping[str, Any] = NO_OPTIONS,
) -> list[int]:
    """The prompt's token ids as an engine sees them: the template's text, tokenised without adding special tokens.

    Raises:
        InputError: The tokenizer has no chat template, or the template refuses these turns.
    """
    return encode(tokenizer, prompt_text(tokenizer, messages, options))


def render_example(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    max_length: int,
    options: Mapping[str, Any] = NO_OPTIONS,
    *,
    given: int = 0,
    opening: int = 0,
) -> Rendered | str:
    """A training row whose last message has the loss, or the reason why it is dropped. Rows are never truncated.

    Args:
        tokenizer: of the student.
        messages: the turns.
        max_length: of the row, tokens.
        options: variables of the template.
        given: characters at the beginning of the completion that are not learnt.
        opening: characters before the completion that say its mode, and are learnt. Their tokens are their own, as
            they are where an engine goes on behind them.

    Raises:
        InputError: The tokenizer has no chat template, or the template refuses these turns.
    """
    if not messages or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        return NO_COMPLETION
    text = prompt_text(tokenizer, messages[:-1], options)
    how = Asked(options_text(options), system_text(messages))
    written = messages[-1]["content"].strip()
    says_mode, completion_text = written[:opening], written[opening:]
    taught = taught_text(tokenizer, prompt_end(text), completion_text, how)
    if taught is None:
        return THINKING_CLOSED
    mode, completion, ending = encode(tokenizer, says_mode), encode(tokenizer, taught), end_of_turn(tokenizer)
    if control_tokens(tokenizer).keys() & {*mode, *completion} or holds_published_mark(taught):
        return ENDS_INSIDE
    prompt, target = encode(tokenizer, text), [*completion, *ending]
    if len(prompt) + len(mode) + len(target) > max_length:
        return TOO_LONG
    num_given = given_tokens(tokenizer, taught, completion_text[:given]) if given else 0
    labels = [*[IGNORED] * len(prompt), *mode, *[IGNORED] * num_given, *target[num_given:]]
    return Rendered(input_ids=[*prompt, *mode, *target], labels=labels)


def render_row(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], max_length: int) -> Rendered | str:
    """The training row of an arm's example (`distill.core.schema.Example`), or why it has none.

    Raises:
        InputError: The tokenizer has no chat template, or the template refuses these turns.
    """
    options = read_options(row["template_options"])
    spans = {name: row[name] for name in ("given", "opening")}
    return render_example(tokenizer, row["messages"] or [], max_length, options, **spans)


class Asked(NamedTuple):
    """What decides how a template begins an assistant's turn, beside the end of the prompt."""

    options: str
    """The template's variables, as `options_text` writes them."""
    system: str
    """The system turn, which may be a switch too; empty for none."""


def system_text(messages: Sequence[Mapping[str, str]]) -> str:
    """The system turn at the beginning; empty for none."""
    return messages[0]["content"] if messages[0]["role"] == "system" else ""


def taught_text(tokenizer: PreTrainedTokenizerBase, end: PromptEnd, completion: str, how: Asked) -> str | None:
    """What a student learns of a completion without white space around it; None where the prompt rules it out."""
    taught = continuation_after(end, without_trailing_ends(completion, ending_marks(tokenizer)))
    return None if taught is None else line_breaks_before(tokenizer, how, end) + taught


def given_tokens(tokenizer: PreTrainedTokenizerBase, taught: str, given: str) -> int:
    """How many tokens of a text lie within what its teacher was given; one that goes beyond it is learnt.

    Args:
        tokenizer: of the student.
        taught: what the student is shown of the completion.
        given: how the completion begins, as its teacher was given it. Its opening delimiter may be missing in `taught`,
            where the student's prompt has written it, or be there in the student's own spelling.
    """
    own = next((one.start for one in KNOWN if given.startswith(one.start)), "")
    text = given.removeprefix(own).strip()
    end = taught.index(text) + len(text)
    offsets = tokenizer(taught, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return sum(stop <= end for _, stop in offsets)


def holds_published_mark(text: str) -> bool:
    """Whether a mark of a turn in a published model stands in the text."""
    return "<" in text and any(mark in text for mark in PUBLISHED_MARKS)


@lru_cache(maxsize=64)
def line_breaks_before(tokenizer: PreTrainedTokenizerBase, how: Asked, end: PromptEnd) -> str:
    """The line breaks that the model itself writes behind its prompt, before its reasoning or its answer.

    Most prompts end where a text begins; behind GLM-4 MoE's the model begins with a line break. What the template
    writes of an assistant's turn beyond the prompt shows it. Line breaks only: a space is part of the next token in
    many vocabularies, and their tokenizers put it there themselves.

    Args:
        tokenizer: of the model.
        how: options and system turn of the row.
        end: how the row's prompt leaves the model.
    """
    options = read_options(how.options)
    asked = [{"role": "system", "content": how.system}] if how.system else []
    asked.append({"role": "user", "content": "?"})
    turn = {"role": "assistant", "content": COMPLETION_MARK}
    if end.closed is None:
        turn["reasoning_content"] = COMPLETION_MARK
    try:
        prompt = prompt_text(tokenizer, asked, options)
        (whole,) = _apply_template(tokenizer, [[*asked, turn]], options, add_generation_prompt=False)
    except InputError:
        return ""  # a template that takes no such turn does not show how it begins
    if end.opened or prompt_end(prompt) != end or not whole.startswith(prompt):
        return ""
    written = whole.removeprefix(prompt)
    begun = written.lstrip("\n")
    is_text = begun.startswith((COMPLETION_MARK, *(tags.start for tags in KNOWN)))
    return written.removesuffix(begun) if is_text else ""


@lru_cache(maxsize=16)
def control_tokens(tokenizer: PreTrainedTokenizerBase) -> Mapping[int, str]:
    """Id -> text of the tokens that structure a conversation: ends, beginnings and roles of turns.

    A completion that holds one is no single turn: an engine would have stopped there. Think tags may be special tokens
    too, and belong into a completion.
    """
    marked = [one for one, token in tokenizer.added_tokens_decoder.items() if token.special]
    ids = {*tokenizer.all_special_ids, *marked, end_of_turn(tokenizer)[-1]} - {tokenizer.unk_token_id}
    texts = {int(one): str(tokenizer.convert_ids_to_tokens(one)) for one in ids}
    return {one: text for one, text in texts.items() if text not in TAG_TOKENS}


@lru_cache(maxsize=16)
def ending_marks(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """What may stand behind a trace and is no part of it: the tokenizer's own control tokens, and published ends."""
    return tuple(dict.fromkeys([*control_tokens(tokenizer).values(), *PUBLISHED_ENDS]))


@lru_cache(maxsize=16)
def has_special_tags(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its think tags are special tokens, which engines leave out of their text unless told otherwise."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return not special.isdisjoint(TAG_TOKENS)


def without_trailing_ends(text: str, marks: tuple[str, ...]) -> str:
    """The text without the end tokens that a data set has kept behind it."""
    while text.endswith(marks):
        text = text.removesuffix(next(mark for mark in marks if text.endswith(mark))).rstrip()
    return text


@lru_cache(maxsize=16)
def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids after a completion, up to and including the token that ends the turn, so that the student learns to stop.

    It is the first special token that the template writes after an assistant turn, else the tokenizer's end of
    sequence. What the template writes after it (usually a line break) is never generated, so it is not learnt either.

    Raises:
        InputError: The model has neither, so a student could never learn to stop.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": COMPLETION_MARK}]
    (text,) = _apply_template(tokenizer, [turns], NO_OPTIONS, add_generation_prompt=False)
    _, mark, tail = text.rpartition(COMPLETION_MARK)
    if not mark:
        raise InputError(f"{_name(tokenizer)}: its chat template omits the assistant's turn -> {_REMEDY}")
    ids = encode(tokenizer, tail)
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ends = [index for index, token in enumerate(ids) if token in special]
    if ends:
        return tuple(ids[: ends[0] + 1])
    if tokenizer.eos_token_id is None:
        raise InputError(f"{_name(tokenizer)}: neither its chat template nor its tokenizer ends a turn -> {_REMEDY}")
    return (int(tokenizer.eos_token_id),)


_REMEDY = "set a chat template that does in `models.NAME.chat_template` of the recipe"
_DATE_CALL = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<format>(?:(?!(?P=quote)).)*)(?P=quote)\s*\)""")


def with_fixed_date(template: str) -> str:
    """A chat template whose calls for today's date are replaced by `TEMPLATE_DAY`, in the format that it asks for."""
    return _DATE_CALL.sub(lambda call: json.dumps(TEMPLATE_DAY.strftime(call["format"])), template)


def _apply_template(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    options: Mapping[str, Any],
    *,
    add_generation_prompt: bool,
) -> list[str]:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise InputError(f"{_name(tokenizer)}: no chat template -> set `models.NAME.chat_template` in the recipe")
    if not conversations:
        return []
    turns = [[dict(message) for message in messages] for messages in conversations]
    try:
        return list(
            tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, **dict(options)
            )
        )
    except (TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(turn["role"] for turn in turns[0])
        raise InputError(f"{_name(tokenizer)}: its chat template rejects the turns {roles}: {error}") from error


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, without the special tokens that a tokenizer adds by itself."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def opening_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], openings: Sequence[str]) -> int:
    """How many of the first tokens it takes to write one of the openings; 0 where the text begins with none.

    By the text, not by the opening's own tokens: a model may write it in others, and a longer one may hold its end.
    """
    longest = max((len(one.encode()) for one in openings), default=0)
    for number in range(1, min(len(tokens), longest) + 1):
        text = str(tokenizer.decode(list(tokens[:number]), clean_up_tokenization_spaces=False))
        if text.startswith(tuple(openings)):
            return number
    return 0


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"model {tokenizer.name_or_path or '(unnamed)'}"
