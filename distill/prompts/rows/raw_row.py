"""One row of a source, as it was read."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class RawRow(NamedTuple):
    """One row of a source; `error` is set if it could not be read."""

    where: str
    row: Mapping[str, Any]
    error: str = ""
    commit: str = ""
    """Commit of the data set on the hub; empty for other sources or if it is not known."""
