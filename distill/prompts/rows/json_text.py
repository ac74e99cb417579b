"""Decodes JSON text as it stands in a file: numbers keep their spelling, and what cannot be used has a reason."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

MAX_DIGITS = 4300
"""Python reads no longer integer from text."""
TOO_MANY_DIGITS = "a number has too many digits"
LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")


class _TooLong:
    """Stands for an integer that Python does not read."""

    def __str__(self) -> str:
        return f"(a number of more than {MAX_DIGITS} digits)"


TOO_LONG = _TooLong()


class SpelledFloat(float):
    """A number with its spelling in the file: 4.50 is written 4.50, and not all digits of a long one fit a float."""

    text: str

    def __new__(cls, text: str) -> "SpelledFloat":
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


def _number(text: str) -> float:
    return SpelledFloat(text) if "e" not in text.lower() else float(text)


def _integer(text: str) -> int | _TooLong:
    return int(text) if len(text) <= MAX_DIGITS else TOO_LONG


_DECODER = json.JSONDecoder(parse_float=_number)
_FILE_DECODER = json.JSONDecoder(parse_float=_number, parse_int=_integer)
"""For what follows on after a number that cannot be read."""


class Decoded(NamedTuple):
    """A value, or why there is none that can be used; `value` is then what may be shown of it."""

    value: Any
    fault: str = ""


def decode(text: str) -> Decoded:
    """One JSON value."""
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError:
        return Decoded(None, "not JSON: JSONDecodeError")
    except RecursionError:
        return Decoded(None, "JSON is nested too deeply")
    except ValueError:
        return Decoded(None, TOO_MANY_DIGITS)
    return _checked(value, _has_surrogates(text))


def decode_line(line: bytes) -> Decoded:
    """One JSON value from a line of a file."""
    try:
        text = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError:
        return Decoded(None, "not JSON: UnicodeDecodeError")
    return decode(text)


def decode_all(text: str) -> Iterator[Decoded]:
    """JSON values that follow each other, and the items of each that is a list: pretty objects, or one array.

    Raises:
        ValueError: the text is not JSON; what would follow the fault is unknown, so nothing is left out silently.
        RecursionError: it is nested too deeply.
    """
    position, is_suspicious = _next(text, 0), _has_surrogates(text) or LONG_NUMBER.search(text) is not None
    while position < len(text):
        value, end = _FILE_DECODER.raw_decode(text, position)
        for item in value if isinstance(value, list) else [value]:
            yield _checked(item, is_suspicious)
        position = _next(text, end)


def _next(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n,\ufeff":
        position += 1
    return position


def _has_surrogates(text: str) -> bool:
    """Whether it has escapes of surrogates: only then a row is searched for half a pair."""
    return "\\ud" in text or "\\uD" in text


def _checked(value: Any, is_suspicious: bool) -> Decoded:
    fault = _fault(value) if is_suspicious else ""
    if not isinstance(value, dict):
        return Decoded({"line": value}, fault or "not a JSON object")
    return Decoded(value, fault)


def _fault(value: Any) -> str:
    """What in a value cannot be used."""
    if value is TOO_LONG:
        return TOO_MANY_DIGITS
    if isinstance(value, str):
        return "half of a surrogate pair in a text" if any("\ud800" <= one <= "\udfff" for one in value) else ""
    inside: Iterable[Any] = ()
    if isinstance(value, dict):
        inside = (*value, *value.values())
    elif isinstance(value, list):
        inside = value
    return next(filter(None, map(_fault, inside)), "")


def nested(text: str) -> Any:
    """What a column's JSON text holds, if it is an object or a list; else None."""
    if text[:100].lstrip()[:1] not in ("{", "["):
        return None
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None
