"""Modes of a student that was trained on a mix with modes: a line of the system turn asks for one."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve.errors import ServeError

AUTO = "auto"
"""Leaves the turns as they are."""


def mode_line(modes: Mapping[str, str], mode: str) -> str:
    """What asks for a mode.

    Raises:
        ServeError: the model does not know the mode.
    """
    if mode not in modes:
        known = ", ".join(modes) or "none: it was trained on a mix without modes"
        raise ServeError(f"the model has no mode {mode!r}. Its modes: {known}")
    return modes[mode]


def under_system(system: str | None, line: str) -> str:
    """The system line with a mode's line under it; either alone where the other is empty."""
    return "\n".join(filter(None, (system, line)))


def in_mode(turns: Sequence[Mapping[str, Any]], line: str) -> list[dict[str, Any]]:
    """The turns with the line under their system line, as in training; with a system turn of its own where none is."""
    given = [dict(turn) for turn in turns]
    if not line:
        return given
    if not given or given[0].get("role") != "system":
        return [{"role": "system", "content": line}, *given]
    said = given[0].get("content") or ""
    with_line = [*said, {"type": "text", "text": line}] if isinstance(said, list) else under_system(said, line)
    return [{**given[0], "content": with_line}, *given[1:]]
