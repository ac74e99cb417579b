"""Answers on disk while a benchmark is still being asked: an evaluation that is killed goes on from the last of them.

Shards lie beside the scores that they become, named by the score's key, and go once it is written. A request that
failed is not kept: it is asked again.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from distill.core.run_dir import RunDir

FLUSH_ROWS = 256
FLUSH_S = 5.0


# Producer and consumer: evaluate, of one run and the next.
@dataclass(frozen=True)
class Answered:
    """What an endpoint said to one request."""

    prompt_id: str
    sample_index: int
    completion: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class AnswerLog:
    """The answers of one model to one benchmark, under the key of their score."""

    def __init__(self, run_dir: RunDir, model: str, benchmark: str, key: str) -> None:
        self._run_dir = run_dir
        self._folder = ("evaluate", model, f"{benchmark}.answers")
        self._key = key
        self._buffer: list[Answered] = []
        self._flushed_at = time.monotonic()

    def answered(self, requests: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Of the requests, those that an earlier run had an answer to, as rows with that answer."""
        known = {(one["prompt_id"], one["sample_index"]): one for one in self._read()}
        for request in requests:
            if answer := known.get((request["prompt_id"], request["sample_index"])):
                yield {**request, **answer, "error": ""}

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep an answered row; on disk within seconds, as long as rows keep coming."""
        if not row["error"]:
            self._buffer.append(Answered(**{field.name: row[field.name] for field in fields(Answered)}))
        if len(self._buffer) >= FLUSH_ROWS or time.monotonic() - self._flushed_at > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory."""
        if self._buffer:
            shard = f"{self._key}-{uuid.uuid4().hex[:8]}.parquet"
            self._run_dir.write_rows(self._buffer, Answered, *self._folder, shard)
        self._buffer, self._flushed_at = [], time.monotonic()

    def clear(self) -> None:
        """The score is written: its answers are in it, and those of older keys are of no use."""
        self._run_dir.remove(*self._folder)

    def _read(self) -> Iterator[dict[str, Any]]:
        for shard in self._run_dir.shards(*self._folder):
            name = shard.rsplit("/", 1)[-1]
            if name.startswith(f"{self._key}-"):
                yield from self._run_dir.read_table(*self._folder, name, row_type=Answered).to_pylist()
