"""Modes of a student that was trained on a mix with modes: a line of the system turn selects one."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve.errors import ServeError

AUTO = "auto"
"""Leaves the turns unchanged."""


def mode_line(modes: Mapping[str, str], mode: str) -> str:
    """The system line that selects a mode.

    Raises:
        ServeError: the model has no such mode.
    """
    if mode not in modes:
        known = ", ".join(modes) or "none: it was trained on a mix without modes"
        raise ServeError(f"the model has no mode {mode!r}. Its modes: {known}")
    return modes[mode]


def append_to_system(system: str | None, line: str) -> str:
    """The system text with a mode's line below it; either alone where the other is empty."""
    return "\n".join(filter(None, (system, line)))


def with_mode_line(turns: Sequence[Mapping[str, Any]], line: str) -> list[dict[str, Any]]:
    """The turns with the line below their system text, as in training; in a new system turn where there is none."""
    copied = [dict(turn) for turn in turns]
    if not line:
        return copied
    if not copied or copied[0].get("role") != "system":
        return [{"role": "system", "content": line}, *copied]
    system = copied[0].get("content") or ""
    content = [*system, {"type": "text", "text": line}] if isinstance(system, list) else append_to_system(system, line)
    return [{**copied[0], "content": content}, *copied[1:]]
