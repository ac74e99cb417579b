"""Chosen traces as training examples: the student's own chat format around the teachers' completions, in columns."""

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
    """A list of turns per row: those that ask the problem, then the completion without white space around it.

    Args:
        problems: one per row.
        completions: one per row.
        chats: the formats in use; they differ in their system line at most, so they have the same number of turns.
        codes: each row's place in `chats`.

    The turns before the problem are the same in every row of a format, so they are built once.
    """
    asked = chat_messages("", chats[0])
    num_turns, num_rows = len(asked) + 1, len(completions)
    users = [chat_messages(problem, chats[0])[-1]["content"] for problem in problems]
    fixed = [turn["content"] for chat in chats for turn in chat_messages("", chat)[:-1]]
    values = pa.concat_arrays(
        [pa.array(fixed, pa.string()), pa.array(users, pa.string()), pc.utf8_trim_whitespace(completions)]
    )
    places = np.empty((num_rows, num_turns), dtype=np.int64)
    places[:, :-2] = codes[:, None] * (num_turns - 2) + np.arange(num_turns - 2)
    places[:, -2] = len(fixed) + np.arange(num_rows)
    places[:, -1] = len(fixed) + num_rows + np.arange(num_rows)
    roles = pa.array([*(turn["role"] for turn in asked), "assistant"], pa.string())
    turns = pa.StructArray.from_arrays(
        [roles.take(pa.array(np.tile(np.arange(num_turns), num_rows))), values.take(pa.array(places.ravel()))],
        fields=list(SCHEMA.field("messages").type.value_type),
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(num_rows + 1, dtype=np.int32) * num_turns), turns)


def named(codes: NDArray[np.int64], names: Sequence[str]) -> pa.Array:
    """A column of names from their places."""
    return pa.array(names, pa.string()).take(pa.array(codes))
