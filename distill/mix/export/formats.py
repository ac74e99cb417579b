"""One example in each of the formats: pure functions of a row."""

from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]

SPEAKERS = {"user": "human", "assistant": "gpt"}


def messages_row(row: Row) -> dict[str, Any]:
    """`messages`: TRL, ms-swift, Axolotl, prime-rl, SkyRL."""
    return {"messages": row["messages"]}


def prompt_completion_row(row: Row) -> dict[str, Any]:
    """`prompt` and `completion` as turns: TRL, which then learns the completion alone."""
    return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}


def sharegpt_row(row: Row) -> dict[str, Any]:
    """`conversations` with `from` and `value`, `system` apart: LLaMA-Factory, Axolotl."""
    turns = row["messages"]
    system = "".join(turn["content"] for turn in turns if turn["role"] == "system")
    spoken = [turn for turn in turns if turn["role"] != "system"]
    return {
        "conversations": [{"from": SPEAKERS[turn["role"]], "value": turn["content"]} for turn in spoken],
        "system": system,
    }


LINE_FORMATS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "messages": messages_row,
    "prompt_completion": prompt_completion_row,
    "sharegpt": sharegpt_row,
}
"""The formats that are JSON Lines, one example a line."""

TABLE_FORMATS = ("dataset", "open_r1")
"""The formats that are Parquet shards: our columns, and open-r1's with all traces of a prompt in one row."""

FORMATS = (*TABLE_FORMATS, *LINE_FORMATS)
