"""Chat turns of any data set: `role`/`content` or `from`/`value`, content as text or parts, reasoning beside it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from distill.prompts.rows.json_text import nested
from serve.chat_reply import text_of

ROLE_FIELDS = ("role", "from", "speaker", "author")
TEXT_FIELDS = ("content", "value", "text")
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
ROLES = {
    "user": ("user", "human", "prompter", "instruction", "question"),
    "assistant": ("assistant", "gpt", "model", "bot", "ai", "chatgpt", "chatbot", "answer", "response"),
    "system": ("system", "developer", "context"),
    "tool": ("tool", "function", "observation", "ipython", "environment", "function_call", "function_response"),
}
"""Role -> the names that data sets give it, whatever their case."""
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
TEXT_PARTS = ("text", "output_text", "input_text")
REASONING_PARTS = ("thinking", "reasoning", "reasoning_text")


class Turn(NamedTuple):
    """One turn of a conversation."""

    role: str
    text: str
    reasoning: str = ""


class Conversation(NamedTuple):
    """The turns of a conversation; `fault` says why they cannot be used."""

    turns: tuple[Turn, ...]
    fault: str = ""

    @property
    def answers(self) -> list[Turn]:
        """The assistant's turns that say anything."""
        return [turn for turn in self.turns if turn.role == "assistant" and (turn.text.strip() or turn.reasoning)]

    @property
    def questions(self) -> list[str]:
        """The user's turns that say anything."""
        return [turn.text for turn in self.turns if turn.role == "user" and turn.text.strip()]

    @property
    def last_question(self) -> str:
        """The user's turn before the last answer (before the end where there is none); empty where there is none."""
        answered = [number for number, turn in enumerate(self.turns) if turn.role == "assistant"]
        before = self.turns[: answered[-1]] if answered else self.turns
        return next((turn.text for turn in reversed(before) if turn.role == "user" and turn.text.strip()), "")


def conversation(value: Any) -> Conversation | None:
    """The conversation that a value is: a list of turns, one turn, a table with a list per field, or JSON text of
    these. None for anything else."""
    if isinstance(value, str):
        value = nested(value)
    if isinstance(value, Mapping) and _is_turn(value) and isinstance(_first(value, ROLE_FIELDS), list):
        value = _rows(value)
        if value is None:
            return Conversation((), "its turns are lists of different lengths")
    listed: Sequence[Any] = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []
    if not listed or not all(isinstance(turn, Mapping) and _is_turn(turn) for turn in listed):
        return None
    turns: list[Turn] = []
    for raw in listed:
        turn = _turn(raw)
        if isinstance(turn, str):
            return Conversation(tuple(turns), turn)
        turns.append(turn)
    return Conversation(tuple(turns))


def _rows(table: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The turns of a table with a list per field, as `datasets` writes a sequence of structs; None where the lists have
    different lengths."""
    fields = (*ROLE_FIELDS, *TEXT_FIELDS, *REASONING_FIELDS, "tool_calls")
    lists = {name: table[name] for name in fields if isinstance(table.get(name), list)}
    if len({len(values) for values in lists.values()}) != 1:
        return None
    return [dict(zip(lists, turn, strict=True)) for turn in zip(*lists.values(), strict=True)]


def _is_turn(turn: Mapping[str, Any]) -> bool:
    return any(name in turn for name in ROLE_FIELDS) and any(name in turn for name in TEXT_FIELDS)


def _first(turn: Mapping[str, Any], fields: Sequence[str]) -> Any:
    """The first field that is there and not null: one struct may have both spellings, with null in one of them."""
    return next((turn[name] for name in fields if turn.get(name) is not None), None)


def _turn(raw: Mapping[str, Any]) -> Turn | str:
    """A turn, or why it cannot be used."""
    name = _first(raw, ROLE_FIELDS)
    role = _ROLE_OF.get(name.strip(" :").lower()) if isinstance(name, str) else None
    if role is None:
        return f"unknown role {str(name)[:40]!r}"
    if role == "tool" or raw.get("tool_calls"):
        return "uses tools"
    text, reasoning, fault = _content(_first(raw, TEXT_FIELDS))
    apart = _first(raw, REASONING_FIELDS)
    thought = text_of(apart)
    if fault or (apart and not thought):
        return fault or f"reasoning of a turn is {type(apart).__name__} without text"
    return Turn(role, text, thought or reasoning)


class _Content(NamedTuple):
    text: str = ""
    reasoning: str = ""
    fault: str = ""


def _content(value: Any) -> _Content:
    """The text and the reasoning of a turn's content: text, parts, or nothing."""
    if value is None:
        return _Content()
    if isinstance(value, str):
        return _Content(value)
    if isinstance(value, Mapping):
        return _part(value)
    if not isinstance(value, list):
        return _Content(fault=f"content of a turn is {type(value).__name__}")
    parts = [_Content(part) if isinstance(part, str) else _part(part) for part in value]
    fault = next((part.fault for part in parts if part.fault), "")
    return _Content("".join(part.text for part in parts), "\n".join(filter(None, (p.reasoning for p in parts))), fault)


def _part(part: Any) -> _Content:
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    if isinstance(part, Mapping) and kind in REASONING_PARTS:
        thought = text_of(part)
        return _Content(reasoning=thought) if thought else _Content(fault=f"a part of type {kind!r} holds no text")
    text = _first(part, TEXT_FIELDS) if isinstance(part, Mapping) and kind in TEXT_PARTS else None
    return _Content(text) if isinstance(text, str) else _Content(fault=f"a turn holds a part of type {kind!r}")
