"""The instructions of a row that rules can check, in the layout of IFEval's data: names, and a table of arguments for
each."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from distill.config.base import one_of
from distill.config.sources import Columns
from distill.core.errors import InputError
from distill.grading.instructions import ARGUMENTS, Instruction, lacking, pack_instructions
from distill.prompts.rows.json_text import nested
from distill.prompts.rows.paths import get
from distill.prompts.rows.raw_row import RawRow

NAMES, ARGUMENT_TABLES = "instruction_id_list", "kwargs"
"""IFEval's own columns."""


class RowInstructions(NamedTuple):
    """The instructions of a row as JSON, or why it has none that can be checked."""

    entry: str
    fault: str = ""


def instructions_of(raw: RawRow, columns: Columns) -> RowInstructions:
    """The instructions of a row.

    Raises:
        InputError: no rule checks one of them. Without it the set would be another one than it says.
    """
    column, of_arguments = columns.instructions or NAMES, columns.arguments or ARGUMENT_TABLES
    names, tables = _listed(get(raw.row, column)), _listed(get(raw.row, of_arguments))
    if not names or not all(isinstance(name, str) for name in names):
        return RowInstructions("", f"no list of instructions in {column!r}")
    if unknown := [name for name in names if name not in ARGUMENTS]:
        listed = ", ".join(map(repr, dict.fromkeys(unknown)))
        raise InputError(f"{raw.where}: no rule checks the instruction {listed} -> {one_of(unknown[0], ARGUMENTS)}")
    if len(tables) != len(names) or not all(isinstance(one, Mapping | None) for one in tables):
        return RowInstructions("", f"{of_arguments!r} is no list of a table for each instruction")
    given = [{name: value for name, value in (one or {}).items() if value is not None} for one in tables]
    for name, arguments in zip(names, given, strict=True):
        if missing := lacking(Instruction(name, arguments)):
            return RowInstructions("", f"{name} lacks its argument {', '.join(missing)}")
    return RowInstructions(pack_instructions(names, given))


def _listed(value: Any) -> list[Any]:
    """A list, also one that stands as JSON in a text."""
    found = nested(value) if isinstance(value, str) else value
    return found if isinstance(found, list) else []
