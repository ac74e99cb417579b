"""External bucket sort of trace texts by prompt.

One pass distributes the texts over temporary files; each holds a bucket, a range of consecutive prompts. Only one
bucket is in memory at a time, whatever the number of traces.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distill.core.full_disk import full_disk_said
from distill.generate.traces import last_of_each

BUCKET_PROMPTS = 4096
"""Prompts per bucket, at least: with four traces of 8 KB each, 128 MB."""
MAX_BUCKETS = 256
"""Most files open at once."""

SCHEMA = pa.schema([("row", pa.int64()), ("text", pa.string())])


class TextBuckets:
    """Numbered texts in temporary files, one per bucket of prompts."""

    def __init__(self, num_prompts: int) -> None:
        self.size = max(BUCKET_PROMPTS, -(-num_prompts // MAX_BUCKETS))
        self.num_prompts = num_prompts
        self._files = ExitStack()
        self._folder = Path(self._files.enter_context(TemporaryDirectory(prefix="distill-mix-")))
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def __enter__(self) -> "TextBuckets":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    def spans(self) -> Iterator[tuple[int, int]]:
        """[start, stop) of every bucket, in prompts."""
        for start in range(0, self.num_prompts, self.size):
            yield start, min(start + self.size, self.num_prompts)

    def add(self, prompts: NDArray[np.int64], rows: NDArray[np.int64], texts: pa.Array) -> None:
        """Store texts.

        Args:
            prompts: the index of each text's prompt.
            rows: a number for each text, by which it is found again.
            texts: as many strings.

        Raises:
            FullDiskError: the disk for temporary files is full.
        """
        buckets = prompts // self.size
        for bucket in np.unique(buckets).tolist():
            mine = np.flatnonzero(buckets == bucket)
            batch = pa.record_batch([pa.array(rows[mine]), texts.take(pa.array(mine))], schema=SCHEMA)
            with full_disk_said(str(self._folder)):
                self._writer(bucket).write_batch(batch)

    def _writer(self, bucket: int) -> pa.ipc.RecordBatchStreamWriter:
        if bucket not in self._writers:
            sink = self._files.enter_context(pa.OSFile(self._path(bucket), "wb"))
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writers[bucket] = self._files.enter_context(pa.ipc.new_stream(sink, SCHEMA, options=options))
        return self._writers[bucket]

    def _path(self, bucket: int) -> str:
        return str(self._folder / f"{bucket}.arrow")

    def read(self, start: int) -> pa.Table:
        """`row` and `text` of the bucket that starts at a prompt: sorted by row, each row once, as added last."""
        bucket = start // self.size
        if bucket not in self._writers:
            return SCHEMA.empty_table()
        self._writers[bucket].close()
        with pa.OSFile(self._path(bucket), "rb") as source:
            table = pa.ipc.open_stream(source).read_all()
        return table.take(pa.array(last_of_each(table.column("row").to_numpy())))
