"""What a value of a row is as text: the same whatever file it came from."""

import datetime
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

Convert = Callable[[Any], Any]


def as_text(value: Any) -> str | None:
    """A text, number, date or list of these as text; empty for a missing value, None for anything else.

    A number that is no number (NaN, infinite) is a missing value, as pandas writes it.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else ""
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return _listed(value)
    return None


def _listed(values: list[Any] | tuple[Any, ...]) -> str | None:
    texts = [as_text(value) for value in values]
    return None if None in texts else ", ".join(text for text in texts if text)


def as_number(value: Any) -> float | None:
    """A number, or a text that is one; else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float | Decimal | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    return None


def is_false(value: Any) -> bool:
    """Whether a value of a correctness column says no. A missing value says nothing."""
    number = as_number(value)
    return value is False or number == 0.0 or (isinstance(value, str) and value.strip().lower() in ("false", "no"))


# Arrow


def converter(kind: pa.DataType) -> Convert | None:
    """What makes plain values of Arrow's Python values of a type; None where they are plain already."""
    if pa.types.is_dictionary(kind):
        return converter(kind.value_type)
    if pa.types.is_float16(kind):
        return _shortest(np.float16)
    if pa.types.is_float32(kind):
        return _shortest(np.float32)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _decoded
    if pa.types.is_map(kind):
        return _mapped(converter(kind.item_type))
    if pa.types.is_struct(kind):
        return _struct({field.name: convert for field in kind if (convert := converter(field.type))})
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = converter(kind.value_type)
        return _each(inner) if inner else None
    return None


def _shortest(precision: type[np.floating[Any]]) -> Convert:
    """The shortest decimal of a number of less than 64 bits: 1234.1 and not 1234.0999755859375."""

    def plain(value: float | None) -> float | None:
        return None if value is None else float(str(precision(value)))

    return plain


def _decoded(value: bytes | None) -> Any:
    try:
        return value if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _mapped(convert: Convert | None) -> Convert:
    def plain(pairs: list[tuple[Any, Any]] | None) -> Any:
        return None if pairs is None else {key: convert(value) if convert else value for key, value in pairs}

    return plain


def _struct(converts: Mapping[str, Convert]) -> Convert | None:
    def plain(value: dict[str, Any] | None) -> Any:
        return None if value is None else value | {name: convert(value[name]) for name, convert in converts.items()}

    return plain if converts else None


def _each(convert: Convert) -> Convert:
    def plain(values: list[Any] | None) -> Any:
        return None if values is None else [convert(value) for value in values]

    return plain
