"""Reads the traces of a pool without their texts."""

import dataclasses
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distill.core.run_dir import RunDir, pool_shards
from distill.core.schema import IndexRow, arrow_schema
from distill.run.pools import Pool

INDEX_COLUMNS = tuple(field.name for field in dataclasses.fields(IndexRow))


def read_index_table(run_dir: RunDir, pool: Pool) -> pa.Table:
    """A pool's traces without their texts, each once, sorted by identity.

    A table, not rows: 120 bytes a trace instead of 450, and a pool may have millions.
    """
    schema = pa.schema([arrow_schema(IndexRow).field(name) for name in INDEX_COLUMNS])
    found = run_dir.read_columns(INDEX_COLUMNS, *pool_shards(pool.folder))
    table = schema.empty_table() if found is None else found.select(schema.names).cast(schema)
    table = table.take(pc.sort_indices(table, [("trace_id", "ascending")]))
    if table.num_rows < 2:
        return table
    ids = table.column("trace_id")
    is_last = pc.not_equal(ids.slice(0, len(ids) - 1), ids.slice(1)).combine_chunks()
    return _where(table, pa.concat_arrays([is_last, pa.array([True])]))


def read_index(run_dir: RunDir, pool: Pool) -> list[IndexRow]:
    """The same as rows, for small pools."""
    return index_rows(read_index_table(run_dir, pool))


def index_rows(table: pa.Table) -> list[IndexRow]:
    """Rows of an index table."""
    return [IndexRow(**row) for row in table.to_pylist()]


def of_prompts(table: pa.Table, prompt_ids: pa.ChunkedArray, num_samples: int | None = None) -> pa.Table:
    """The traces of some prompts. `num_samples`: only the first so many samples of each."""
    wanted = pc.is_in(table.column("prompt_id"), value_set=prompt_ids.combine_chunks())
    if num_samples is not None:
        wanted = pc.and_(wanted, pc.less(table.column("sample_index"), num_samples))
    return _where(table, wanted)


def _where(table: pa.Table, mask: Any) -> pa.Table:
    """The rows of a mask. Where it takes all, the usual case, the table itself: a copy would double the memory."""
    return table if pc.all(mask).as_py() else table.filter(mask)


def count_values(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs."""
    return {row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()}
