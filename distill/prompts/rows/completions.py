"""The completions of a row: texts, or the assistant's turns, with the reasoning that stands beside them."""

from typing import Any, Literal, NamedTuple

from distill.prompts.rows.parallel import uneven
from distill.prompts.rows.turns import Conversation, conversation
from serve.api.reasoning_parser import join_reasoning

Turns = Literal["all"] | None


class Completion(NamedTuple):
    """A completion, or why there is none."""

    text: str
    fault: str = ""
    question: str = ""
    """The user turn that it answers, where it was a conversation."""


def completions_of(value: Any, reasoning: Any, *, turns: Turns, end: str) -> list[Completion]:
    """The completions in a column, in its order, with a fault in the place of each that cannot be used: columns that
    are parallel to it keep their places.

    Args:
        value: a text, a conversation, a list of either, or None.
        reasoning: the reasoning of each, in a column of its own; None where there is none.
        turns: which turns of a conversation.
        end: the delimiter that ends the reasoning.
    """
    items = _items(value)
    reasons = reasoning if isinstance(reasoning, list) else [reasoning] * len(items)
    if len(reasons) != len(items):  # nothing says whose reasoning is missing, so none of them is certain
        return [Completion("", uneven("reasoning", "completions"))] * len(items)
    return [_completion(item, reason, turns, end) for item, reason in zip(items, reasons, strict=True)]


def _items(value: Any) -> list[Any]:
    is_list = isinstance(value, list) and conversation(value) is None
    return list(value) if is_list else [value]


def _completion(item: Any, reasoning: Any, turns: Turns, end: str) -> Completion:
    found = conversation(item)
    if found is not None:
        answer = _answer(found, turns, end)
    elif isinstance(item, str | None):
        answer = Completion(item) if item and item.strip() else Completion("", "no completion")
    else:
        answer = Completion("", f"completion is not text but {_kind(item)}")
    if answer.fault or reasoning is None:
        return answer
    if not isinstance(reasoning, str):
        return Completion("", f"reasoning is not text but {_kind(reasoning)}")
    return answer._replace(text=joined(reasoning, answer.text, end))


def _answer(found: Conversation, turns: Turns, end: str) -> Completion:
    if found.fault or not found.answers:
        return Completion("", found.fault or "no completion")
    last_is_answer = bool(found.turns) and found.turns[-1].role == "assistant"
    if not last_is_answer:
        return Completion("", "the last turn is not the assistant's")
    chosen = found.answers if turns == "all" else found.answers[-1:]
    if not chosen[-1].text.strip():
        return Completion("", "reasoning without an answer")
    question = found.questions[0] if turns == "all" and found.questions else found.last_question
    text = "\n\n".join(joined(turn.reasoning, turn.text, end) for turn in chosen)
    return Completion(text, "", question)


def joined(reasoning: str, answer: str, end: str) -> str:
    """Reasoning and answer as one text; never twice, where a data set has the reasoning in both fields."""
    if end and end in answer:
        return answer
    if not end:
        return f"{reasoning.strip()}\n\n{answer}" if reasoning.strip() else answer
    return join_reasoning(reasoning, answer, end)


def _kind(value: Any) -> str:
    return f"a table of {', '.join(map(str, value))}"[:120] if isinstance(value, dict) else type(value).__name__
