"""Finds a value in a row by a dotted path: `reward_model.ground_truth`, `messages.0.content`, `responses.response`."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from distill.prompts.rows.json_text import nested


class _Missing:
    """The type of `MISSING`."""


MISSING: Final = _Missing()
"""There is nothing at a path, not even null."""


def find(row: Mapping[str, Any], path: str) -> Any:
    """The value at a path, or MISSING.

    A column whose name has dots is taken before a path. On the way a number picks from a list (`-1` the last), a name
    is looked up in every item of it (the result is a list), and text that is JSON is read.
    """
    return row[path] if path in row else _below(row, path.split("."))


def get(row: Mapping[str, Any], path: str | None) -> Any:
    """The value at a path; None where there is none."""
    value = MISSING if path is None else find(row, path)
    return None if value is MISSING else value


def _below(value: Any, names: list[str]) -> Any:
    if not names:
        return value
    name, rest = names[0], names[1:]
    if isinstance(value, str):
        value = nested(value)
    if isinstance(value, Mapping):
        return _below(value[name], rest) if name in value else MISSING
    if isinstance(value, list):
        return _in_list(value, name, rest)
    return MISSING


def _in_list(values: list[Any], name: str, rest: list[str]) -> Any:
    if name.removeprefix("-").isdecimal():
        index = int(name)
        return _below(values[index], rest) if -len(values) <= index < len(values) else MISSING
    found = [_below(value, [name, *rest]) for value in values]
    if all(value is MISSING for value in found):
        return MISSING
    return [None if value is MISSING else value for value in found]


class ColumnWatch:
    """Which of the columns that a recipe names occur in a source at all: one that never does is a mistake."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.unseen = set(paths)
        self.names: dict[str, None] = {}
        """The columns of the rows that were looked at, in order."""

    def see(self, row: Mapping[str, Any]) -> None:
        """Look at a row; once all columns were seen, this costs nothing."""
        if self.unseen:
            self.names |= dict.fromkeys(map(str, row))
            self.unseen = {path for path in self.unseen if find(row, path) is MISSING}
