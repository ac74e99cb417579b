"""Lists in columns beside each other: which value is whose."""

from typing import Any


def parallel(value: Any, length: int) -> list[Any]:
    """A column's values for the traces of a row: one for all of them, or a list with one for each."""
    assert not is_uneven(value, length)
    return list(value) if isinstance(value, list) else [value] * length


def is_uneven(value: Any, length: int) -> bool:
    """Whether a column holds a list that does not say which value is whose."""
    return isinstance(value, list) and len(value) != length


def uneven(column: str, what: str) -> str:
    """The drop reason of a row with such a list."""
    return f"its list of {column} is not as long as its list of {what}"
