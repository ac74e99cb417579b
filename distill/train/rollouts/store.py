"""The files of a cell's rollouts: what the student wrote, token by token, and what each teacher makes of it.

Eight bytes a token and file: an id (int32) and the log-probability that it was sampled with (fp32), and per teacher one
more number. Lists of Python objects would take ten times that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.core.run_dir import Parts, RunDir, Training

if TYPE_CHECKING:
    from distill.train.rollouts.plan import RolloutPlan

ROLLOUTS = "rollouts.parquet"
"""What the student wrote."""
FIGURES = "rollouts.json"
"""What was measured of it before the training."""

_IDS = pa.list_(pa.int32())
_NATS = pa.list_(pa.float32())
ROLLOUT_SCHEMA = pa.schema(
    [("trace_id", pa.string()), ("tokens", _IDS), ("sampled", _NATS), ("is_finished", pa.bool_())]
)
SCORE_SCHEMA = pa.schema([("trace_id", pa.string()), ("teacher", _NATS)])


class Rollout(NamedTuple):
    """A student's own answer to the prompt of a row."""

    trace_id: str
    """Of the row."""
    tokens: NDArray[np.int32]
    """[n], with the one that ends the turn where it is finished."""
    sampled: NDArray[np.float32]
    """[n]: log-probability of each under the engine when it was sampled, at temperature 1; nats."""
    is_finished: bool
    """Not cut at the token limit."""


def scores_file(scorer: str) -> str:
    """The file with a teacher's log-probabilities."""
    return f"scores-{scorer}.parquet"


def write_rollouts(run_dir: RunDir, cell: str, rollouts: Sequence[Rollout]) -> None:
    """Store what the student wrote."""
    columns = [[one[place] for one in rollouts] for place in range(len(ROLLOUT_SCHEMA))]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ROLLOUT_SCHEMA, strict=True)]
    table = pa.table(arrays, schema=ROLLOUT_SCHEMA)
    run_dir.write_table(table, *Training(cell).file(ROLLOUTS))


def read_rollouts(run_dir: RunDir, cell: str) -> list[Rollout]:
    """What the student wrote; empty where it did not yet."""
    return [
        Rollout(name, tokens, sampled, is_finished)
        for name, tokens, sampled, is_finished in _rows(run_dir, Training(cell).file(ROLLOUTS))
    ]


def write_scores(run_dir: RunDir, cell: str, scorer: str, scores: Mapping[str, NDArray[np.float32]]) -> None:
    """Store a teacher's log-probabilities: row -> [n], nats."""
    columns = [pa.array(list(scores), pa.string()), pa.array(list(scores.values()), _NATS)]
    run_dir.write_table(pa.table(columns, schema=SCORE_SCHEMA), *Training(cell).file(scores_file(scorer)))


def read_scores(run_dir: RunDir, cell: str, scorer: str) -> dict[str, NDArray[np.float32]]:
    """A teacher's log-probabilities by row; empty where there are none yet."""
    return dict(_rows(run_dir, Training(cell).file(scores_file(scorer))))


def read_figures(run_dir: RunDir, cell: str) -> dict[str, Any]:
    """What was measured of a cell's rollouts; empty where it has none."""
    return dict(json.loads(run_dir.read_bytes(*Training(cell).file(FIGURES)) or b"{}"))


def teacher_scores(run_dir: RunDir, cell: str, plan: RolloutPlan) -> dict[str, NDArray[np.float32]]:
    """Row -> the log-probabilities of its teacher."""
    return {name: values for scorer in plan.scorers for name, values in read_scores(run_dir, cell, scorer.name).items()}


def _rows(run_dir: RunDir, parts: Parts) -> Iterator[tuple[Any, ...]]:
    """Rows of a file, lists as arrays; none where there is no such file."""
    if not run_dir.exists(*parts):
        return
    with run_dir.fs.open(run_dir.path(*parts), "rb") as file:
        table = pq.read_table(file)
    columns = [
        [value.values.to_numpy() for value in column] if pa.types.is_list(column.type) else column.to_pylist()
        for column in table.columns
    ]
    yield from zip(*columns, strict=True)
