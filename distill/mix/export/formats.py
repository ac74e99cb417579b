"""Converts an example into each of the export formats. Pure functions of a row."""

from collections.abc import Callable, Mapping
from typing import Any

from distill.models.template_options import read_options

Row = Mapping[str, Any]

SPEAKERS = {"user": "human", "assistant": "gpt"}


def messages_row(row: Row) -> dict[str, Any]:
    """`messages`, for TRL, ms-swift, Axolotl, prime-rl and SkyRL."""
    return {"messages": row["messages"]}


def prompt_completion_row(row: Row) -> dict[str, Any]:
    """`prompt` and `completion` as turns, for TRL, which then trains on the completion only."""
    return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}


def sharegpt_row(row: Row) -> dict[str, Any]:
    """`conversations` with `from` and `value`, and `system`, for LLaMA-Factory and Axolotl."""
    turns = row["messages"]
    system = "".join(turn["content"] for turn in turns if turn["role"] == "system")
    others = [turn for turn in turns if turn["role"] != "system"]
    return {
        "conversations": [{"from": SPEAKERS[turn["role"]], "value": turn["content"]} for turn in others],
        "system": system,
    }


OPTIONS_FIELD = "chat_template_kwargs"
"""Column with the variables of the chat template that a row was asked with. TRL passes it to the template by itself."""


def with_options(row: Row, converted: dict[str, Any]) -> dict[str, Any]:
    """A converted row with the template's variables: two modes of a student may differ in nothing else."""
    return {**converted, OPTIONS_FIELD: dict(read_options(row["template_options"]))}


LINE_FORMATS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "messages": messages_row,
    "prompt_completion": prompt_completion_row,
    "sharegpt": sharegpt_row,
}
"""Formats in JSON Lines, one example a line."""

TABLE_FORMATS = ("dataset", "open_r1")
"""Formats in Parquet shards: our columns, and those of open-r1 with all traces of a prompt in one row."""

RENDERED_FORMAT = "text"
"""`prompt` and `completion` as texts in JSON Lines, as a student's chat template makes them: for trainers that would
lose the reasoning when they apply the template themselves."""

FORMATS = (*TABLE_FORMATS, *LINE_FORMATS, RENDERED_FORMAT)
