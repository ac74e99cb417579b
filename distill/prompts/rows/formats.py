"""Reads the rows of one file by its format, compressed or not, as a stream."""

import bz2
import csv
import gzip
import io
import lzma
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from distill.core.errors import InputError
from distill.prompts.rows.json_text import decode_all, decode_line
from distill.prompts.rows.raw_row import RawRow
from distill.prompts.rows.values import converter
from distill.run.source_files import COMPRESSED_SUFFIXES, DATA_SUFFIXES, suffixes

BATCH_ROWS = 256
SHOWN_BYTES = 500
ARROW_FILE_MAGIC = b"ARROW1"
PEEKED_BYTES = 4096
_FAULTS = (OSError, EOFError, pa.ArrowException, lzma.LZMAError, csv.Error, ValueError, RecursionError)


def read_file(name: str, stream: BinaryIO) -> Iterator[RawRow]:
    """The rows of an open file, numbered from 1.

    Args:
        name: its name, whose suffixes say what it is: `rows.jsonl.gz`.
        stream: its bytes.

    Raises:
        InputError: the format is not known, or the file as a whole is damaged.
    """
    form, compression = suffixes(name)
    reader = READERS.get(form)
    if reader is None:
        known = f"{', '.join(DATA_SUFFIXES)}, with {', '.join(COMPRESSED_SUFFIXES)} behind it where it is compressed"
        raise InputError(f"{name}: a file {form or 'without suffix'} is not taken -> convert it; taken are {known}")
    number = 0
    try:
        for number, row in enumerate(reader(_opened(stream, compression, form)), 1):
            yield row._replace(where=f"{name}:{row.where or number}")
    except _FAULTS as error:
        what = f"{name} is damaged or no {form} file, behind row {number}: {type(error).__name__}: {error}"
        raise InputError(f"{what[:500]} -> make it again, or leave it out") from error


def _opened(stream: BinaryIO, compression: str, form: str) -> BinaryIO:
    match compression:
        case ".gz":
            opened: Any = gzip.GzipFile(fileobj=stream)
        case ".bz2":
            opened = bz2.BZ2File(stream)
        case ".xz":
            opened = lzma.open(stream)  # noqa: SIM115 (the caller closes what it opened)
        case ".zst":
            opened = io.BufferedReader(cast(Any, pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")))
        case _:
            return stream
    is_table = form in (".parquet", ".arrow", ".feather", ".ipc")  # they are read from their end
    return io.BytesIO(opened.read()) if is_table else cast(BinaryIO, opened)


# JSON


def read_json_lines(stream: Iterable[bytes]) -> Iterator[RawRow]:
    """One object a line; empty lines are none."""
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield _json_row(str(number), line)


def _json_row(where: str, line: bytes) -> RawRow:
    decoded = decode_line(line)
    shown = {"line": line[:SHOWN_BYTES].decode("utf-8", "replace")}
    return RawRow(where, decoded.value if isinstance(decoded.value, dict) else shown, decoded.fault)


def read_json(stream: BinaryIO) -> Iterator[RawRow]:
    """Objects, one a line, or one array of objects, or objects over several lines."""
    buffered = io.BufferedReader(cast(Any, stream)) if not hasattr(stream, "peek") else stream
    head = bytes(cast(Any, buffered).peek(PEEKED_BYTES)[:PEEKED_BYTES]).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith(b"[") and not _is_pretty(head):
        yield from read_json_lines(buffered)
        return
    text = buffered.read().decode("utf-8-sig")
    for decoded in decode_all(text):
        yield RawRow("", decoded.value, decoded.fault)


def _is_pretty(head: bytes) -> bool:
    """Whether an object of the file goes over several lines: its first line holds no more than how it begins."""
    first, newline, rest = head.partition(b"\n")
    return bool(newline) and first.strip() == b"{" and not rest.lstrip().startswith(b"{")


# Tables


def read_csv(stream: BinaryIO) -> Iterator[RawRow]:
    """Rows below a header, all values text; the delimiter is the one that occurs most in the header."""
    csv.field_size_limit(sys.maxsize)  # a trace is longer than the 128 KiB that Python allows a cell
    text = io.TextIOWrapper(cast(Any, stream), encoding="utf-8-sig", newline="")
    header = text.readline()
    delimiter = max(",;\t", key=header.count)
    names = next(csv.reader([header], delimiter=delimiter), [])
    for cells in csv.reader(text, delimiter=delimiter):
        if cells:
            fault = f"{len(cells)} cells below {len(names)} columns" if len(cells) != len(names) else ""
            yield RawRow("", dict(zip(names, cells, strict=False)), fault)


def read_parquet(stream: BinaryIO) -> Iterator[RawRow]:
    """The rows of a Parquet file."""
    yield from table_rows(pq.ParquetFile(stream).iter_batches(batch_size=BATCH_ROWS))


def read_arrow(stream: BinaryIO) -> Iterator[RawRow]:
    """The rows of an Arrow file, in either of its forms: `datasets` writes streams, Feather files have a footer."""
    magic = stream.read(len(ARROW_FILE_MAGIC))
    stream.seek(0)
    if magic == ARROW_FILE_MAGIC:
        opened = pa.ipc.open_file(stream)
        yield from table_rows(opened.get_batch(number) for number in range(opened.num_record_batches))
    else:
        yield from table_rows(pa.ipc.open_stream(stream))


def table_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[RawRow]:
    """The rows of Arrow batches, with plain values."""
    for batch in batches:
        converts = {name: convert for name, kind in _columns(batch.schema) if (convert := converter(kind))}
        for start in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            for row in _python_rows(part):
                plain = {name: convert(row.row[name]) for name, convert in converts.items() if not row.error}
                yield row._replace(row={**row.row, **plain})


def _columns(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in schema]


def _python_rows(part: pa.RecordBatch) -> list[RawRow]:
    """All rows at once, or one by one where one of them has a value that Python cannot hold."""
    try:
        return [RawRow("", row) for row in part.to_pylist()]
    except (ValueError, OverflowError, pa.ArrowException) as error:
        if part.num_rows == 1:
            return [RawRow("", {}, f"a value cannot be read: {type(error).__name__}")]
        return [row for number in range(part.num_rows) for row in _python_rows(part.slice(number, 1))]


Reader = Callable[[BinaryIO], Iterator[RawRow]]
READERS: dict[str, Reader] = {
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
    ".ipc": read_arrow,
}
