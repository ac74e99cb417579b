"""Reads the traces of a pool without their texts, as columns of small fixed size.

A trace takes some 40 bytes: its identity as 16 bytes, its prompt as a number, words as codes. A pool may have millions.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distill.core.run_dir import RunDir, pool_shards
from distill.core.schema import IndexRow, Trace, Verdict, arrow_schema
from distill.generate.pool_index import identity_bytes
from distill.run.pools import Pool

SCHEMA = arrow_schema(IndexRow)
TRACE_SCHEMA = arrow_schema(Trace)
DROP = "drop"
"""The column of the index that no trace has: it follows from another pool's traces."""
INDEX_COLUMNS = tuple(field.name for field in dataclasses.fields(IndexRow) if field.name != DROP)
EDIT_COLUMNS = ("parent", "growth")
"""What the drops of a teacher that reads follow from."""
IDENTITIES = ("trace_id", "prompt_id", "parent")
"""Columns with a word of its own for almost every trace."""
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
"""In the name of a pool's folder, behind its teacher's."""
ENDPOINT_ENGINE = "endpoint "
"""How `Trace.engine` begins where an endpoint wrote it; the name that it gave its model follows."""
WRITTEN_ROWS = 8 * 8192
"""Rows that are turned into text at once, a multiple of a row group."""


@dataclass(frozen=True, eq=False)
class PoolTraces:
    """Traces of one pool for some prompts, each once, sorted by identity."""

    prompt_ids: NDArray[np.bytes_]
    """The prompts, sorted."""
    columns: Mapping[str, NDArray[Any]]
    """`trace_id` and `parent` as bytes, `prompt_id` as a number in `prompt_ids`, numbers, and words as codes."""
    words: Mapping[str, tuple[str, ...]]
    """Column -> what its codes mean."""

    def __len__(self) -> int:
        return len(self.columns["trace_id"])

    def is_word(self, column: str, word: str) -> NDArray[np.bool_]:
        """Where a column of words holds this one."""
        words = self.words[column]
        code = words.index(word) if word in words else -1
        found: NDArray[np.bool_] = self.columns[column] == code
        return found

    def count_words(self, column: str) -> dict[str, int]:
        """How often each word occurs; those that do not are left out."""
        counts = np.bincount(self.columns[column], minlength=len(self.words[column])).tolist()
        return {word: count for word, count in zip(self.words[column], counts, strict=True) if count}

    def holds(self, trace_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each of these traces is here."""
        return positions(self.columns["trace_id"], identity_bytes(pa.array(trace_ids, pa.string()))) >= 0

    def with_drops(self, drops: NDArray[np.int16], words: tuple[str, ...]) -> "PoolTraces":
        """The same traces with a reason for each why no mix may use it: a code in `words`, of which the first is
        empty."""
        columns, meanings = {**self.columns, DROP: drops}, {**self.words, DROP: words}
        return dataclasses.replace(self, columns=columns, words=meanings)

    def is_usable(self) -> NDArray[np.bool_]:
        """Where a trace is correct and not dropped."""
        is_correct = self.is_word("verdict", Verdict.CORRECT)
        return is_correct & self.is_word(DROP, "") if DROP in self.columns else is_correct

    def tables(self) -> Iterator[pa.Table]:
        """The rows as tables of `IndexRow`, where all of its columns were read."""
        for start in range(0, len(self), WRITTEN_ROWS):
            part = slice(start, start + WRITTEN_ROWS)
            yield pa.table([self._values(field, part) for field in SCHEMA], schema=SCHEMA)

    def _values(self, field: pa.Field, part: slice) -> pa.Array:
        if field.name == DROP and DROP not in self.columns:
            return pa.repeat("", len(self.columns["trace_id"][part]))
        values = self.columns[field.name][part]
        if field.name in self.words:
            return pa.array(self.words[field.name], pa.string()).take(pa.array(values))
        if field.name == "prompt_id":
            values = self.prompt_ids[values]
        return pa.array(values).cast(field.type)


def read_traces(
    run_dir: RunDir,
    pool: Pool,
    prompt_ids: pa.ChunkedArray,
    num_samples: int | None = None,
    columns: Sequence[str] = INDEX_COLUMNS,
) -> PoolTraces:
    """The traces of a pool for some prompts.

    Args:
        run_dir: of the run.
        pool: whose traces.
        prompt_ids: of the prompts.
        num_samples: only the first so many samples of each.
        columns: what to read; identities are always read.
    """
    known = np.sort(identity_bytes(prompt_ids))
    names = tuple(dict.fromkeys(["trace_id", "prompt_id", *columns, *(["sample_index"] if num_samples else [])]))
    words: dict[str, dict[str, int]] = {name: {} for name in names if _is_word(name)}
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for table in run_dir.column_tables(names, *pool_shards(pool.folder)):
        prompts = positions(known, identity_bytes(table.column("prompt_id")))
        is_wanted = prompts >= 0
        if num_samples is not None:
            is_wanted &= table.column("sample_index").to_numpy() < num_samples
        parts["trace_id"].append(identity_bytes(table.column("trace_id"))[is_wanted])
        parts["prompt_id"].append(prompts[is_wanted].astype(np.int32))
        for name in names[2:]:
            column = table.column(name)
            values = word_codes(column, words[name]) if name in words else _numbers(name, column)
            parts[name].append(values[is_wanted])
    joined = {name: _joined(name, parts.pop(name)) for name in names}
    meanings = {name: tuple(codes) for name, codes in words.items()}
    return PoolTraces(known, _sorted_once(joined), meanings)


def _is_word(column: str) -> bool:
    return pa.types.is_string(TRACE_SCHEMA.field(column).type) and column not in IDENTITIES


def _numbers(name: str, column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of numbers, or of identities."""
    kind = np.float32 if name == "growth" else np.int32
    found: NDArray[Any] = identity_bytes(column) if name in IDENTITIES else column.to_numpy().astype(kind)
    return found


def paid_tokens(run_dir: RunDir, teacher: str) -> int:
    """Completion tokens of all traces that endpoints have written under a teacher's name: as it is set now, and as it
    was set before, which are other pools."""
    folders = [path.rsplit("/", 1)[1] for path in run_dir.matching(*pool_shards(f"{teacher}-*"))]
    # Another teacher's name may begin with this one.
    mine = [folder for folder in folders if FINGERPRINT.fullmatch(folder.removeprefix(f"{teacher}-"))]
    return sum(_endpoint_tokens(run_dir, folder) for folder in mine)


def _endpoint_tokens(run_dir: RunDir, folder: str) -> int:
    """Completion tokens of a pool's traces, each counted once."""
    tables = run_dir.column_tables(["trace_id", "completion_tokens", "engine"], *pool_shards(folder))
    paid = [table.filter(pc.starts_with(table.column("engine"), ENDPOINT_ENGINE)) for table in tables]
    parts = [(identity_bytes(table.column(0)), table.column(1).to_numpy()) for table in paid if len(table)]
    if not parts:
        return 0
    ids, tokens = (np.concatenate(column) for column in zip(*parts, strict=True))
    return int(tokens[last_of_each(ids)].sum())


def index_rows(tables: Iterable[pa.Table]) -> Iterator[IndexRow]:
    """Rows of tables with `INDEX_COLUMNS`."""
    return (IndexRow(**row) for table in tables for row in table.to_pylist())


def _joined(name: str, parts: list[NDArray[Any]]) -> NDArray[Any]:
    is_identity = name in ("trace_id", "parent")
    return np.concatenate(parts) if parts else np.empty(0, "S16" if is_identity else np.int32)


def _sorted_once(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Rows by identity, each once."""
    rows = last_of_each(columns["trace_id"])
    return {name: columns.pop(name)[rows] for name in [*columns]}


def last_of_each(ids: NDArray[Any]) -> NDArray[np.int64]:
    """One row of each identity, sorted by it: of a trace that is in two shards (a crash can leave that) the last."""
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    is_last = np.ones(len(ids), dtype=np.bool_)
    is_last[:-1] = ids[1:] != ids[:-1]
    rows: NDArray[np.int64] = order[is_last]
    return rows


def positions(known: NDArray[np.bytes_], wanted: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Where each identity stands among the sorted ones; -1 where it does not."""
    if not len(known):
        return np.full(len(wanted), -1)
    found = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[found] == wanted, found, -1)


def word_codes(column: pa.ChunkedArray, codes: dict[str, int]) -> NDArray[np.int16]:
    """Codes of a column with few distinct words; new ones are added to `codes`."""
    encoded = column.combine_chunks().dictionary_encode()
    meaning = np.array([codes.setdefault(word, len(codes)) for word in encoded.dictionary.to_pylist()] or [0], np.int16)
    found: NDArray[np.int16] = meaning[encoded.indices.to_numpy()]
    return found
