"""The verified traces as columns of numbers, for filters and policies. No texts, no row objects.

A trace takes 29 bytes, so ten million take 290 MB, however long their texts are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.core.errors import StageError
from distill.core.run_dir import RunDir
from distill.core.schema import Verdict
from distill.mix.seeded_order import keys_of
from distill.verify.edit_drops import DROPS

COLUMNS = ("trace_id", "prompt_id", "pool", "style", "verdict", "completion_tokens", "finish_reason")
EDIT_COLUMNS = ("drop", "given")
"""Absent in an index of before teachers could read."""
VERDICTS = tuple(Verdict)
BATCH_ROWS = 1 << 18
"""Rows decoded at once while reading."""


@dataclass(frozen=True, eq=False)
class TraceIndex:
    """Columns with one entry per trace; the order does not matter."""

    trace_keys: NDArray[np.uint64]
    prompt_keys: NDArray[np.uint64]
    pools: NDArray[np.int16]
    """Index in `pool_names`."""
    tokens: NDArray[np.int32]
    """Length of the completion, tokens."""
    verdicts: NDArray[np.int8]
    """Index in `VERDICTS`."""
    is_cut: NDArray[np.bool_]
    """Whether the token limit ended it, not the teacher."""
    drops: NDArray[np.int8]
    """Index in `DROPS`: why an edit is not used, whatever its verdict."""
    given: NDArray[np.int32]
    """Characters at the beginning of the completion that its teacher continued and students do not learn."""
    pool_names: tuple[str, ...] = ()
    styles: Mapping[str, str] = field(default_factory=dict)
    """Pool -> style."""

    def __len__(self) -> int:
        return len(self.trace_keys)

    def is_correct(self) -> NDArray[np.bool_]:
        """Whether each trace was graded CORRECT."""
        found: NDArray[np.bool_] = self.verdicts == VERDICTS.index(Verdict.CORRECT)
        return found

    def is_wrong(self) -> NDArray[np.bool_]:
        """Whether each trace was graded INCORRECT or NO_ANSWER; what the verifier could not tell is neither."""
        return np.isin(self.verdicts, [VERDICTS.index(Verdict.INCORRECT), VERDICTS.index(Verdict.NO_ANSWER)])

    def pool_codes(self, names: tuple[str, ...]) -> NDArray[np.int16]:
        """Index of each trace's pool in `names`; -1 for a pool that is not among them."""
        codes = [names.index(name) if name in names else -1 for name in self.pool_names]
        return np.array([*codes, -1], dtype=np.int16)[self.pools]


def read_index(run_dir: RunDir, *parts: str) -> TraceIndex:
    """The index that the verify stage wrote.

    Raises:
        StageError: it is missing, empty, or lacks columns.
    """
    shards = run_dir.shards(*parts)
    num_rows = sum(pq.read_metadata(shard, filesystem=run_dir.fs).num_rows for shard in shards)
    if not num_rows:
        raise StageError(f"mix: {run_dir.path(*parts)} holds no trace -> delete RUN/verify to write it again")
    return fill_index(num_rows, (batch for shard in shards for batch in _batches(run_dir, shard)))


def _batches(run_dir: RunDir, shard: str) -> Iterator[pa.RecordBatch]:
    with run_dir.fs.open(shard) as source:
        file = pq.ParquetFile(source)
        missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
        if missing:
            raise StageError(
                f"mix: {shard} lacks the columns {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)}\n"
                "  -> delete RUN/verify and run the same command to write it again"
            )
        present = [name for name in (*COLUMNS, *EDIT_COLUMNS) if name in file.schema_arrow.names]
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=present)


def fill_index(num_rows: int, batches: Iterator[pa.RecordBatch]) -> TraceIndex:
    """An index of `num_rows` rows from their record batches, of which one is in memory at a time."""
    trace_keys, prompt_keys = np.empty(num_rows, np.uint64), np.empty(num_rows, np.uint64)
    pools, tokens = np.empty(num_rows, np.int16), np.empty(num_rows, np.int32)
    verdicts, is_cut = np.empty(num_rows, np.int8), np.empty(num_rows, np.bool_)
    drops, given = np.zeros(num_rows, np.int8), np.zeros(num_rows, np.int32)
    names: dict[str, int] = {}
    styles: dict[str, str] = {}
    start = 0
    for batch in batches:
        part = slice(start, start + batch.num_rows)
        trace_keys[part] = keys_of(batch.column("trace_id"), "trace id")
        prompt_keys[part] = keys_of(batch.column("prompt_id"), "prompt id")
        pools[part] = _codes(batch.column("pool"), names)
        tokens[part] = batch.column("completion_tokens").to_numpy()
        verdicts[part] = _codes(batch.column("verdict"), {verdict.value: code for code, verdict in enumerate(VERDICTS)})
        is_cut[part] = pc.equal(batch.column("finish_reason"), "length").to_numpy(zero_copy_only=False)
        if set(EDIT_COLUMNS) <= set(batch.schema.names):
            drops[part] = _codes(batch.column("drop"), {drop: code for code, drop in enumerate(DROPS)})
            given[part] = batch.column("given").to_numpy()
        styles |= _styles(batch)
        start += batch.num_rows
    return TraceIndex(trace_keys, prompt_keys, pools, tokens, verdicts, is_cut, drops, given, tuple(names), styles)


def _codes(column: pa.Array, names: dict[str, int]) -> NDArray[np.int64]:
    """Codes for a column with few distinct values; new values are added to `names`."""
    encoded = column.dictionary_encode()
    distinct = [names.setdefault(value, len(names)) for value in encoded.dictionary.to_pylist()]
    codes: NDArray[np.int64] = np.array(distinct, dtype=np.int64)[encoded.indices.to_numpy()]
    return codes


def _styles(batch: pa.RecordBatch) -> dict[str, str]:
    pairs = pa.Table.from_batches([batch]).group_by(["pool", "style"]).aggregate([])
    return dict(zip(pairs.column("pool").to_pylist(), pairs.column("style").to_pylist(), strict=True))
