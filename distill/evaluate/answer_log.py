"""Log of answers while a benchmark is being answered: an evaluation that is killed continues from it.

Shards are written beside the scores that they become, under the key of the answers, and deleted once the score is
written. A failed request is not logged: it is sent again.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from distill.core.run_dir import RunDir, benchmark_answers

FLUSH_ROWS = 256
FLUSH_S = 5.0


# Producer and consumer: evaluate, of one run and the next.
@dataclass(frozen=True)
class Answered:
    """An endpoint's answer to one request."""

    prompt_id: str
    sample_index: int
    completion: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class AnswerLog:
    """The answers of one model to one benchmark, under their key."""

    def __init__(self, run_dir: RunDir, model: str, benchmark: str, key: str) -> None:
        self._run_dir = run_dir
        self._folder = benchmark_answers(model, benchmark)
        self._key = key
        self._buffer: list[Answered] = []
        self._flushed_at = time.monotonic()

    def answered(self, requests: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Those of the requests that an earlier run has answered, as rows with that answer."""
        known = {(one["prompt_id"], one["sample_index"]): one for one in self._read()}
        for request in requests:
            if answer := known.get((request["prompt_id"], request["sample_index"])):
                yield {**request, **answer, "error": ""}

    def add(self, row: Mapping[str, Any]) -> None:
        """Log an answered row; it is on disk within seconds, as long as more rows come."""
        if not row["error"]:
            self._buffer.append(Answered(**{field.name: row[field.name] for field in fields(Answered)}))
        if len(self._buffer) >= FLUSH_ROWS or time.monotonic() - self._flushed_at > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows."""
        if self._buffer:
            shard = f"{self._key}-{uuid.uuid4().hex[:8]}.parquet"
            self._run_dir.write_rows(self._buffer, Answered, *self._folder, shard)
        self._buffer, self._flushed_at = [], time.monotonic()

    def clear(self) -> None:
        """Delete the log, with that of older keys: the score, which holds the answers, is written."""
        self._run_dir.remove(*self._folder)

    def _read(self) -> Iterator[dict[str, Any]]:
        for shard in self._run_dir.shards(*self._folder):
            name = shard.rsplit("/", 1)[-1]
            if name.startswith(f"{self._key}-"):
                yield from self._run_dir.read_table(*self._folder, name, row_type=Answered).to_pylist()
