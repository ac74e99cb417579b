"""Reads the rows of file sources."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from distill.config.sources import FileSource, source_pattern
from distill.core.errors import InputError
from distill.prompts.rows.formats import read_file
from distill.prompts.rows.raw_row import RawRow
from distill.run.source_files import SourceFiles, source_files, suffixes


def read_files(source: FileSource, base: Path) -> Iterator[RawRow]:
    """The rows of all files of a source, file after file.

    Raises:
        InputError: there is no file, or one as a whole cannot be read.
    """
    found, pattern = source_files(source, base), source_pattern(source, base)
    if not found.paths:
        raise InputError(f"no file at {pattern} -> correct `path` (relative to the recipe)")
    validate_one_format(pattern, found.paths)
    yield from read_all(found)


def read_all(found: SourceFiles) -> Iterator[RawRow]:
    """The rows of files."""
    for path in found.paths:
        with found.fs.open(path, "rb") as stream:
            yield from read_file(PurePosixPath(path).name, stream)


def validate_one_format(pattern: str, paths: Sequence[str]) -> None:
    """Check that files are of one format: a folder that holds its rows twice, in two formats, gives each once.

    Raises:
        InputError: they are of several.
    """
    counts: dict[str, int] = {}
    for path in paths:
        form = suffixes(PurePosixPath(path).name)[0]
        counts[form] = counts.get(form, 0) + 1
    if len(counts) > 1:
        listed = ", ".join(f"{number} of {form or 'no suffix'}" for form, number in sorted(counts.items()))
        raise InputError(f"{pattern} holds files of several formats ({listed}) -> name one: path = '.../*.parquet'")
