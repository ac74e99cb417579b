"""Modes of a student that was trained on a mix with modes: a line of the system turn selects one."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve.errors import ServeError

SYSTEM_ROLES = ("system", "developer")

AUTO = "auto"
"""Leaves the turns unchanged: a model whose modes are in the completion chooses one by itself."""


def mode_line(modes: Mapping[str, str], mode: str) -> str:
    """The system line that selects a mode.

    Raises:
        ServeError: the model has no such mode.
    """
    if mode not in modes:
        known = f"it has {', '.join(modes)}" if modes else "it was trained on a mix without modes"
        raise ServeError(f"the model has no mode {mode!r}: {known}")
    return modes[mode]


def opening_of(line: str) -> str:
    """The text that begins a completion in a mode whose line is in the completion: the line, on a line of its own."""
    return f"{line}\n"


def chosen_in(completion: str, openings: Mapping[str, str]) -> str:
    """The mode that a completion begins with, as its model chose it; empty where it begins with none."""
    return next((mode for mode, opening in openings.items() if completion.startswith(opening)), "")


def append_to_system(system: str | None, line: str) -> str:
    """The system text with a mode's line below it; either alone where the other is empty."""
    return "\n".join(filter(None, (system, line)))


def with_mode_line(turns: Sequence[Mapping[str, Any]], line: str) -> list[dict[str, Any]]:
    """The turns with the line below their system text, as in training; in a new system turn where there is none."""
    copied = [dict(turn) for turn in turns]
    if not line:
        return copied
    if not copied or copied[0].get("role") not in SYSTEM_ROLES:
        return [{"role": "system", "content": line}, *copied]
    return [{**copied[0], "content": _appended(copied[0].get("content") or "", line)}, *copied[1:]]


def _appended(content: Any, line: str) -> Any:
    """The content of a system turn, text or parts, with the line below it."""
    if not isinstance(content, list):
        return append_to_system(content, line)
    *before, last = content
    return [*before, {**last, "text": append_to_system(last.get("text") or "", line)}]


def system_in_user_turn(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The turns with the system text above the first user turn, for chat templates that refuse a system turn."""
    copied = [dict(turn) for turn in turns]
    if len(copied) < 2 or copied[0].get("role") not in SYSTEM_ROLES or copied[1].get("role") != "user":
        return copied
    system, user = plain_text(copied[0].get("content")), copied[1].get("content")
    above = {"type": "text", "text": f"{system}\n\n"}
    content = [above, *user] if isinstance(user, list) else f"{system}\n\n{user}"
    return [{**copied[1], "content": content}, *copied[2:]]


def plain_text(content: Any) -> str:
    """The text of a turn, whose content is a text or a list of text parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    return str(content or "")
