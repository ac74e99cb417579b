"""The rows of a file or hub source that a recipe wants: `where`, `max_rows`, and the columns that must be there."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from distill.config.base import one_of
from distill.config.sources import Columns, DataSource, FileSource, Where
from distill.config.teachers import TraceColumns, names
from distill.core.errors import InputError
from distill.core.schema import WITHOUT_REFERENCE
from distill.prompts.rows.files import read_files
from distill.prompts.rows.hub import read_hub
from distill.prompts.rows.paths import ColumnWatch
from distill.prompts.rows.raw_row import RawRow
from distill.prompts.rows.where import is_wanted, not_a_number

EXCLUDED = "excluded by where"


class NoColumnError(InputError):
    """No row that was read has a column that the recipe names."""


def read_rows(
    source: DataSource, base: Path, columns: Columns | TraceColumns, where: Where, skipped: Counter[str]
) -> Iterator[RawRow]:
    """The rows that a recipe wants, unreadable ones included.

    Args:
        source: file or hub.
        base: folder of relative paths.
        columns: the columns that the rows are read by.
        where: conditions beside those of the source.
        skipped: counts the rows that were left out.

    Raises:
        InputError: the source as a whole cannot be read.
        NoColumnError: no row of it has a column that the recipe names.
    """
    wanted = {**source.where, **where}
    watch = ColumnWatch([*named_columns(columns, source.answer_kind), *source.where, *where])
    rows = read_files(source, base) if isinstance(source, FileSource) else read_hub(source)
    num_rows = 0
    for raw in islice(rows, source.max_rows):
        if raw.error:
            yield raw
            continue
        num_rows += 1
        watch.see(raw.row)
        if is_wanted(raw.row, source.where) and is_wanted(raw.row, where):
            yield raw
        else:
            wording = not_a_number(raw.row, wanted)
            skipped[f"{EXCLUDED}: its {wording} is no number" if wording else EXCLUDED] += 1
    if num_rows:
        _validate_seen(name_of(source), watch, wanted)


def _validate_seen(source: str, watch: ColumnWatch, where: Where) -> None:
    for path in sorted(watch.unseen):
        section = "where" if path in where else "columns"
        raise NoColumnError(f"{source}: no row has {path!r}, named in its {section} -> {one_of(path, watch.names)}")


def named_columns(columns: Columns | TraceColumns, answer_kind: str) -> list[str]:
    """The columns that must be somewhere in a source: those without which a row is nothing, and those that are not
    named by default."""
    if isinstance(columns, TraceColumns):
        needed = [*names(columns.completion), *(names(columns.reasoning) if columns.reasoning else ())]
        optional = {"problem": columns.problem, "finish_reason": columns.finish_reason, "correct": columns.correct}
    else:
        reference = () if answer_kind in WITHOUT_REFERENCE else (columns.reference,)
        needed = [columns.problem, *reference, *_choices(columns)]
        fields = ("level", "subject", "context", "correct", "choice_index", "answer_kind", "language", "entry")
        optional = {name: getattr(columns, name) for name in (*fields, "instructions", "arguments")}
    defaults = {name: field.default for name, field in type(columns).model_fields.items()}
    return [*needed, *(path for name, path in optional.items() if path and path != defaults[name])]


def _choices(columns: Columns) -> Iterable[str]:
    if isinstance(columns.choices, str):
        return [columns.choices]
    choices = columns.choices or ()
    return choices[:2] if columns.has_lettered_choices else choices  # a file may have no row of all its options


def name_of(source: DataSource) -> str:
    """The name of a source in messages and rows: without paths of this machine."""
    return Path(source.path).name if isinstance(source, FileSource) else f"{source.dataset}/{source.split}"
