"""Builds the columns of training examples: the student's chat format around the teachers' completions."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distill.config.teachers import ChatFormat
from distill.core.schema import Example, arrow_schema
from distill.models.chat_template import chat_messages

SCHEMA = arrow_schema(Example)


def message_column(
    problems: Sequence[str], completions: pa.Array, chats: Sequence[ChatFormat], codes: NDArray[np.int64]
) -> pa.Array:
    """A list of turns per row: those that ask the problem, then the completion, stripped of white space.

    Args:
        problems: one per row.
        completions: one per row.
        chats: the formats in use; they differ in their system text and options at most, so they have the same number of
            turns.
        codes: each row's index in `chats`.

    The turns before the problem are the same in all rows of a format, so they are built once.
    """
    asked = chat_messages("", chats[0])
    num_turns, num_rows = len(asked) + 1, len(completions)
    asks = [chats[code] for code in codes.tolist()]
    users = [chat_messages(problem, chat)[-1]["content"] for problem, chat in zip(problems, asks, strict=True)]
    fixed = [turn["content"] for chat in chats for turn in chat_messages("", chat)[:-1]]
    values = pa.concat_arrays(
        [pa.array(fixed, pa.string()), pa.array(users, pa.string()), pc.utf8_trim_whitespace(completions)]
    )
    indices = np.empty((num_rows, num_turns), dtype=np.int64)
    indices[:, :-2] = codes[:, None] * (num_turns - 2) + np.arange(num_turns - 2)
    indices[:, -2] = len(fixed) + np.arange(num_rows)
    indices[:, -1] = len(fixed) + num_rows + np.arange(num_rows)
    roles = pa.array([*(turn["role"] for turn in asked), "assistant"], pa.string())
    turns = pa.StructArray.from_arrays(
        [roles.take(pa.array(np.tile(np.arange(num_turns), num_rows))), values.take(pa.array(indices.ravel()))],
        fields=list(SCHEMA.field("messages").type.value_type),
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(num_rows + 1, dtype=np.int32) * num_turns), turns)


def decode_names(codes: NDArray[np.int64], names: Sequence[str]) -> pa.Array:
    """A column of names from their indices in `names`."""
    return pa.array(names, pa.string()).take(pa.array(codes))
