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
    problems: Sequence[str],
    completions: pa.Array,
    chats: Sequence[ChatFormat],
    codes: NDArray[np.int64],
    openings: Sequence[str] = (),
) -> pa.Array:
    """A list of turns per row: those that ask the problem, then the completion, stripped of white space.

    Args:
        problems: one per row.
        completions: one per row.
        chats: the formats in use.
        codes: each row's index in `chats`.
        openings: what stands before the completions of each of `chats`, where the student writes its mode.

    The turns before the problem are the same in all rows of a format, so they are built once.
    """
    before = [chat_messages("", chat)[:-1] for chat in chats]
    fixed = [turn for turns in before for turn in turns]
    asks = [chats[code] for code in codes.tolist()]
    users = [chat_messages(problem, chat)[-1]["content"] for problem, chat in zip(problems, asks, strict=True)]
    texts = [pa.array([turn["content"] for turn in fixed], pa.string()), pa.array(users, pa.string())]
    written = pc.utf8_trim_whitespace(completions)
    if openings:
        written = pc.binary_join_element_wise(pa.array(openings, pa.string()).take(pa.array(codes)), written, "")
    values = pa.concat_arrays([*texts, written])
    names = [*(turn["role"] for turn in fixed), *["user"] * len(asks), *["assistant"] * len(asks)]
    roles = pa.array(names, pa.string())
    indices, offsets = _turn_indices(np.array([len(turns) for turns in before]), codes)
    turns = pa.StructArray.from_arrays(
        [roles.take(indices), values.take(indices)], fields=list(SCHEMA.field("messages").type.value_type)
    )
    return pa.ListArray.from_arrays(offsets, turns)


def _turn_indices(num_before: NDArray[np.int64], codes: NDArray[np.int64]) -> tuple[pa.Array, pa.Array]:
    """Index of every turn of every row in: the turns before the problem of all formats, the problems, the completions;
    and where each row begins.

    Args:
        num_before: turns before the problem, of each format.
        codes: each row's format.
    """
    num_rows, num_fixed = len(codes), int(num_before.sum())
    starts = np.cumsum(num_before) - num_before
    sizes = num_before[codes] + 2
    ends = np.cumsum(sizes)
    place = np.arange(int(sizes.sum())) - np.repeat(ends - sizes, sizes)
    indices = np.repeat(starts[codes], sizes) + place
    indices[ends - 2] = num_fixed + np.arange(num_rows)
    indices[ends - 1] = num_fixed + num_rows + np.arange(num_rows)
    return pa.array(indices), pa.array(np.concatenate([[0], ends]).astype(np.int32))


def decode_names(codes: NDArray[np.int64], names: Sequence[str]) -> pa.Array:
    """A column of names from their indices in `names`."""
    return pa.array(names, pa.string()).take(pa.array(codes))
