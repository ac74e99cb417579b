"""Which rows a recipe wants: equality, lists and ranges of the values of columns."""

from collections.abc import Mapping
from typing import Any

from distill.config.sources import Range, Scalar, Where
from distill.prompts.rows.paths import MISSING, find
from distill.prompts.rows.values import as_number, as_text


def is_wanted(row: Mapping[str, Any], where: Where) -> bool:
    """Whether a row has all the values."""
    return all(_matches(find(row, path), condition) for path, condition in where.items())


def not_a_number(row: Mapping[str, Any], where: Where) -> str:
    """The first column in which a row has a text where the recipe has a range; empty where there is none."""
    ranged = (path for path, condition in where.items() if isinstance(condition, Range))
    return next((path for path in ranged if _is_wording(find(row, path))), "")


def _is_wording(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and as_number(value) is None


def _matches(value: Any, condition: Scalar | tuple[Scalar, ...] | Range) -> bool:
    if value is MISSING or value is None:
        return False
    if isinstance(value, list | tuple):
        return any(_matches(item, condition) for item in value)
    if isinstance(condition, Range):
        return _is_within(value, condition)
    if isinstance(condition, tuple):
        return any(_is_equal(value, one) for one in condition)
    return _is_equal(value, condition)


def _is_within(value: Any, bounds: Range) -> bool:
    number = as_number(value)
    if number is None or number != number:
        return False
    return (bounds.min is None or number >= bounds.min) and (bounds.max is None or number <= bounds.max)


def _is_equal(value: Any, wanted: Scalar) -> bool:
    """Whether a value is the wanted one in meaning: files differ in how they write it, `4` or `"4"`, `true` or `1`."""
    if isinstance(wanted, bool) or isinstance(value, bool):
        return _truth(value) is not None and _truth(value) == _truth(wanted)
    numbers = as_number(value), as_number(wanted)
    if None not in numbers and not (isinstance(value, str) and isinstance(wanted, str)):
        return numbers[0] == numbers[1]
    return as_text(value) == as_text(wanted)


def _truth(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return bool(value) if value in (0, 1) else None
