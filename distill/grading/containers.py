"""Answers with several items: tuples, intervals, sets, lists, unions, matrices, plus-or-minus pairs."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from distill.grading.expression import is_constant

Compare = Callable[[str, str], bool | None]
"""Same, different, or None for "cannot tell"."""

MAX_PARTS = 40
OPENING = "([{"
CLOSING = ")]}"
# A vmatrix is a determinant, so a number: left to Math-Verify.
MATRIX = re.compile(r"\\begin\{([pbB]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}")
SCALE = re.compile(
    r"([-+]?(?:\d+(?:/\d+)?|\\frac\{[^{}]*\}\{[^{}]*\}|\\sqrt\{\d+\})?\s*(?:\\cdot\s*|\\times\s*)?)(?=\(.*\)$|\\begin)"
)
PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")  # no \pmod
MEMBER = re.compile(r"[a-zA-Z]\\in(?![a-zA-Z])\s*")
TRANSPOSED = re.compile(r"^[(\[]([^()\[\]&]*,[^()\[\]&]*)[)\]]\^\{?\s*(?:T|\\top)\s*\}?$")
NAMED = re.compile(r"([a-z])\s*=")
JOINER = re.compile(r"(?:,|;)?\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*")


class Parts(NamedTuple):
    """The items of a container and how it is bracketed: "()", "[)", "{}", "" for a bare list, "cup", "matrix"."""

    brackets: str
    items: tuple[str, ...]

    @property
    def is_ordered(self) -> bool:
        """Whether the position of an item matters."""
        return self.brackets not in ("", "{}")


def _split(text: str, separators: str) -> list[str] | None:
    """Splits outside brackets; None if the brackets do not match."""
    items, depth, start, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        if character == "\\" and text[position + 1 : position + 2] not in ("{", "}"):
            position += 2
            continue
        depth += (character in OPENING) - (character in CLOSING)
        if depth < 0:
            return None
        if depth == 0 and character in separators:
            items.append(text[start:position])
            start = position + 1
        position += 1
    return [*items, text[start:]] if depth == 0 else None


def _is_wrapped(text: str) -> bool:
    """Whether the first bracket closes at the very end."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in OPENING) - (character in CLOSING)
        if depth == 0:
            return position == len(text) - 1
    return False


def _unwrap(text: str) -> tuple[str, str]:
    """Brackets and inside of "(a,b]", "\\{a,b\\}"; no brackets for a bare list."""
    if text.startswith("\\{") and text.endswith("\\}") and _is_wrapped(text[1:-2] + "}"):
        return "{}", text[2:-2]
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _is_wrapped(text):
        return text[0] + text[-1], text[1:-1]
    return "", text


def parts(text: str) -> Parts | None:
    """A normalized answer as a container, or None for a single value."""
    text = JOINER.sub(",", MEMBER.sub("", text, count=1))
    text = TRANSPOSED.sub(r"(\1)", text) if text.endswith(("T", "p", "}")) else text
    scaled = _scaled(text)
    if scaled is not None:
        return scaled
    matrix = MATRIX.fullmatch(text)
    if matrix:
        rows = [row.split("&") for row in matrix.group(2).strip().removesuffix("\\\\").split("\\\\")]
        return Parts(f"matrix{len(rows)}x{len(rows[0])}", tuple(item.strip() for row in rows for item in row))
    if "\\cup" in text:
        return Parts("cup", tuple(part.strip() for part in text.split("\\cup")))
    brackets, inside = _unwrap(text)
    items = _split(inside, ",;")
    if items is None or len(items) > MAX_PARTS:
        return None
    if len(items) == 1:
        if PLUS_MINUS.search(text):
            return Parts("", _plus_minus(text))
        return Parts("{}", (inside,)) if brackets == "{}" else None
    expanded = tuple(value.strip() for item in items for value in _plus_minus(item))
    return Parts(brackets, expanded if brackets else _by_name(expanded)) if all(expanded) else None


def _scaled(text: str) -> Parts | None:
    """A constant before a tuple or a matrix, multiplied into its items; None for anything else."""
    start = SCALE.match(text)
    if start is None or not start.group(1):
        return None
    factor = start.group(1).removesuffix("\\cdot").removesuffix("\\times").strip()
    inner = parts(text[start.end() :])
    if inner is None or len(inner.items) < 2 or not inner.is_ordered or inner.brackets == "cup":
        return None
    if factor not in ("-", "+") and not is_constant(factor):
        return None
    return inner._replace(items=tuple(f"{factor}({item})" for item in inner.items))


def _by_name(items: tuple[str, ...]) -> tuple[str, ...]:
    """Sorts "y = 2, x = 1" by its names, so that it matches the pair (1, 2); returns other lists unchanged."""
    names = [match.group(1) for item in items if (match := NAMED.match(item))]
    return tuple(sorted(items)) if len(set(names)) == len(items) else items


def _plus_minus(item: str) -> tuple[str, ...]:
    return (PLUS_MINUS.sub("+", item), PLUS_MINUS.sub("-", item)) if PLUS_MINUS.search(item) else (item,)


def _compare_ordered(reference: Sequence[str], answer: Sequence[str], same: Compare) -> bool | None:
    results = [same(left, right) for left, right in zip(reference, answer, strict=True)]
    if False in results:
        return False
    return True if all(results) else None


def _has_unmatched(reference: Sequence[str], answer: Sequence[str], same: Compare) -> bool:
    """Whether an item of the reference surely equals none of the answer's."""
    return any(all(same(item, other) is False for other in answer) for item in reference)


def _compare_unordered(reference: Sequence[str], answer: Sequence[str], same: Compare) -> bool | None:
    remaining = list(answer)
    for item in reference:
        match = next((index for index, other in enumerate(remaining) if same(item, other)), None)
        if match is None:
            return False if _has_unmatched(reference, answer, same) else None
        remaining.pop(match)
    return True


def _are_intervals(reference: Parts, answer: Parts) -> bool:
    """Whether these are intervals (a half-open or infinite one is), so that other brackets mean another answer."""
    kinds = {reference.brackets, answer.brackets}
    if len(reference.items) != 2 or not kinds <= {"()", "[)", "(]", "[]"}:
        return False
    return bool(kinds & {"[)", "(]"}) or any("\\infty" in item for item in reference.items)


def compare_parts(reference: Parts, answer: Parts, same: Compare) -> bool | None:
    """Compares item by item. None for equal items in other brackets, e.g. an open interval for a pair."""
    are_lists = not reference.is_ordered and not answer.is_ordered
    if len(reference.items) != len(answer.items):
        is_unmatched = are_lists and (
            _has_unmatched(reference.items, answer.items, same) or _has_unmatched(answer.items, reference.items, same)
        )
        return False if is_unmatched else None
    if reference.brackets == answer.brackets == "cup":
        return _compare_unordered(reference.items, answer.items, same)
    if reference.brackets == answer.brackets:
        compare = _compare_ordered if reference.is_ordered else _compare_unordered
        return compare(reference.items, answer.items, same)
    if are_lists:
        return _compare_unordered(reference.items, answer.items, same)
    if _are_intervals(reference, answer) or _has_unmatched(reference.items, answer.items, same):
        return False
    return _compare_across(reference, answer, same)


def _compare_across(reference: Parts, answer: Parts, same: Compare) -> bool | None:
    """Equal items in other brackets: a pair is not a set; a bare list is a pair if the order is the same."""
    kinds = {reference.brackets, answer.brackets}
    if kinds == {"()", "{}"}:
        return False
    if kinds == {"()", ""}:
        return _compare_ordered(reference.items, answer.items, same)
    is_column = "()" in kinds and any(re.fullmatch(r"matrix\d+x1", kind) for kind in kinds)
    is_same = _compare_ordered(reference.items, answer.items, same) if is_column else None
    return True if is_same else None
