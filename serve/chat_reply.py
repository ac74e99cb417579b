"""Replies of OpenAI-compatible servers in one form, whoever wrote them. Pure.

Providers differ in where reasoning is (a field of one of several names, parts of the content, the text itself), in what
the content is (text or a list of parts) and in how they say that a reply has ended.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from serve.api.reasoning_parser import join_reasoning, opening_delimiter, opening_line, with_opening

DEFAULT_END = "</think>"
STOP, LENGTH, REFUSED = "stop", "length", "refused"

_SAME_END = {
    STOP: "stop eos eos_token end end_turn end_of_turn stop_sequence stop_token complete completed finished normal",
    LENGTH: "length max_tokens max_length max_new_tokens max_output_tokens max_completion_tokens model_length "
    "context_length token_limit model_context_window_exceeded",
    REFUSED: "content_filter content_filtered refusal refused safety blocked blocklist prohibited_content recitation "
    "sensitive spii moderation guardrail_intervened",
}
END_OF = {word: end for end, words in _SAME_END.items() for word in words.split()}
"""How a provider says that a reply has ended, in lower case -> `stop`, `length` or `refused`."""

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
"""Fields of a message that may hold the reasoning. Where several do, they hold the same."""
TEXT_KEYS = ("text", "thinking", "reasoning", "content", "summary")

MIN_REPEATED_CHARS = 32
"""A text that begins with its whole reasoning repeats it, if that is longer than what may be chance (`4` and `42`)."""


class Message(NamedTuple):
    """What a reply's message says."""

    text: str
    reasoning: str
    """Empty where the server does not separate it."""


def end_of(finish_reason: object) -> str:
    """`stop`, `length` or `refused`; empty for a reason that says neither (an error, a call of a tool, none at all)."""
    words = re.sub(r"[\s-]+", "_", str(finish_reason or "").strip().lower())
    word = re.sub(r"^finish_?reason[_.]", "", words)  # some clients write the name of an enumeration out
    return END_OF.get(word.partition(":")[0].rstrip("_"), "")


def read_message(message: Any) -> Message:
    """Text and reasoning of a message, or of a piece of one in a stream: any object that may have `content`."""
    content = getattr(message, "content", None)
    parts = content if isinstance(content, list) else [content]
    thought = "".join(text_of(part) for part in parts if _is_thinking(part))
    fields = (text_of(getattr(message, name, None)) for name in REASONING_FIELDS)
    text = "".join(text_of(part) for part in parts if not _is_thinking(part))
    return Message(text, thought or next((field for field in fields if field), ""))


def _is_thinking(part: object) -> bool:
    if not isinstance(part, Mapping):
        return False
    kind = str(part.get("type") or next(iter(part), ""))
    return "think" in kind or "reason" in kind


def text_of(value: object) -> str:
    """The text in a string, a part, or a list of them; images and encrypted parts have none."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(text_of, value))
    if isinstance(value, Mapping):
        return next((text for key in TEXT_KEYS if (text := text_of(value.get(key)))), "")
    return ""


def whole_text(message: Message, end: str, *, is_truncated: bool) -> str:
    """Reasoning and answer as one text in the form that models write it; the reasoning is in it once.

    Args:
        message: what the reply says.
        end: the delimiter that ends the reasoning, for example `</think>`.
        is_truncated: the reply ended by length; then reasoning without an answer is not closed.
    """
    opening = opening_delimiter(end)
    inside, closed, answer = message.text.partition(end)
    has_own = bool(inside.strip().removeprefix(opening).strip()) if closed else _begins(message.text, opening)
    if has_own or not message.reasoning.strip():
        return with_opening(message.text, end)
    thought, _, rest = message.reasoning.strip().removeprefix(opening).partition(end)
    answer = _without_repeat(answer if closed else message.text, thought.strip()) or rest
    if is_truncated and not answer.strip():
        return opening_line(end) + thought.strip()
    return join_reasoning(thought, answer, end)


def _begins(text: str, opening: str) -> bool:
    return text.lstrip().startswith(opening)


def _without_repeat(text: str, thought: str) -> str:
    is_repeat = len(thought) >= MIN_REPEATED_CHARS and _begins(text, thought)
    return text.lstrip().removeprefix(thought) if is_repeat else text
