"""Parses and compares sets of real numbers in any notation: intervals, unions, inequalities, single points, all reals.

`2 \\le x < 5`, `x \\in [2,5)` and `[2,5)` are one answer. Each becomes a sorted list of disjoint pieces with numeric
ends, so two sets are compared end by end. Anything that is not certainly such a set is None.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from distill.grading.arithmetic import Value
from distill.grading.expression import DECIMAL, evaluate, same_values

INFINITE = 1e30
"""Represents infinity; no evaluated bound reaches it (see `MAX_BOUND`)."""
MAX_BOUND = 1e12
MAX_PIECES = 12
MAX_CHARS = 300
CLOSE = 1e-9

RELATION = re.compile(r"(<|>|≤|≥|\\(?:leqslant|geqslant|leq|geq|le|ge)(?![A-Za-z]))\s*")
VARIABLE = re.compile(r"[a-zA-Z]|\\(?:alpha|beta|theta|lambda|mu)")
OR = re.compile(r"\s*(?:\\cup|\\text\s*\{\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\lor|\\vee)\s*")
MEMBER = re.compile(r"[a-zA-Z]\s*\\in(?![a-zA-Z])\s*")
INTERVAL = re.compile(r"([(\[\]])([^,;]+)[,;]([^,;]+)([)\]\[])")
"""Also with the brackets of ISO 31-11: "]2,5]" leaves the 2 out."""
ABSOLUTE = re.compile(r"\|([a-zA-Z])\|\s*(<|\\leq?(?![A-Za-z]))\s*([^<>|]+)")
SET_BUILDER = re.compile(r"\\\{\s*[a-zA-Z](?:\s*\\in\s*\\mathbb\{?R\}?)?\s*[|:]\s*(.+)\\\}")
POINT = re.compile(r"\\\{([^,;]+)\\\}")
ALL = re.compile(
    r"\\mathbb\{?R\}?|\\R|(?:\\text\s*\{\s*)?(?:all real numbers|all reals|any real number|the real numbers)\s*\}?"
)
NO_SOLUTION = r"(?:there\s*(?:is|are|exists?)\s*)?no\s*(?:real\s*)?(?:solutions?|roots?)(?:\s*exists?)?\.?"
SIGNED = re.compile(
    r"(?:\\text\s*\{\s*)?(?:all |the |any )?(positive|negative|non-?negative|non-?positive) reals?(?: numbers?)?\s*\}?"
)
RAYS = {"positive": (0, False), "nonnegative": (0, True), "negative": (1, False), "nonpositive": (1, True)}
"""Side of zero, and whether zero belongs to it."""
EMPTY = re.compile(
    rf"(?:[a-z]\s*\\in\s*)?(?:\\emptyset|\\\{{\s*\\\}})\s*|(?:\\text\s*\{{\s*)?{NO_SOLUTION}\s*\}}?", re.IGNORECASE
)
ENDS_EMPTY = re.compile(rf"(?i)\b{NO_SOLUTION}\W*$|(?:\\emptyset|\\varnothing|∅)\W*$")
DENIED = re.compile(r"(?i)\b(?:not|false|untrue|wrong)\b|n't\b")
EXCLUDED = re.compile(
    r"(?:([a-zA-Z])\s*(?:\\neq?(?![A-Za-z])|≠)|\\mathbb\{?R\}?\s*(?:\\setminus|\\backslash|-)\s*\\\{)\s*([^,;{}]+?)(?:\\\})?"
)
HALF_OPEN = frozenset({"(]", "[)", "]]", "[[", "][", "](", ")["})
MARKS = ("<", ">", "\\le", "\\ge", "\\ne", "≠", "≤", "≥", "\\cup", "\\infty", "\\mathbb", "real", "\\in", "\\emptyset")


class Piece(NamedTuple):
    """An interval from `low` to `high`; a point has both ends closed and equal."""

    low: Value
    is_low_closed: bool
    high: Value
    is_high_closed: bool


class RealSet(NamedTuple):
    """A set of reals, and the variable of its notation ("" if it names none)."""

    pieces: tuple[Piece, ...]
    variable: str
    is_rounded: bool = False
    """Whether it was written with decimals, so that an end may be rounded."""


def is_written_as_set(text: str) -> bool:
    """Whether the notation can only mean a set of reals; "(1,2)" may also be a point of the plane."""
    is_half_open = text[:1] + text[-1:] in HALF_OPEN and ("," in text or ";" in text)
    return is_half_open or any(mark in text for mark in MARKS)


def is_empty_set(text: str) -> bool:
    """Whether a normalized answer is the empty set, or says that there is no (real) solution."""
    return bool(EMPTY.fullmatch(text))


def ends_in_no_solution(text: str) -> bool:
    """Whether the last words of a text say that nothing solves the problem."""
    return bool(ENDS_EMPTY.search(text[-MAX_CHARS:])) and not DENIED.search(text[-MAX_CHARS:])


@lru_cache(maxsize=4096)
def parse_real_set(text: str) -> RealSet | None:
    """A normalized answer as a set of reals, or None."""
    if len(text) > MAX_CHARS:
        return None
    builder = SET_BUILDER.fullmatch(text)
    text = MEMBER.sub("", builder.group(1) if builder else text, count=1)
    if EMPTY.fullmatch(text):
        return RealSet((), "")
    pieces, variables = [], set()
    for part in OR.split(text):
        found = _interval(part) or _relation(part)
        both = [found] if found else _all_but_one(part)
        if not both:
            return None
        pieces += [piece for piece, _ in both]
        variables.add(both[0][1])
    if len(pieces) > MAX_PIECES or len(variables) > 1:
        return None
    return RealSet(_merged(pieces), variables.pop(), bool(DECIMAL.search(text)))


def _bound(text: str) -> Value | None:
    """The value of a constant bound, or None."""
    bare = text.replace(" ", "").lstrip("+")
    if bare in ("\\infty", "-\\infty"):
        return -INFINITE if bare[0] == "-" else INFINITE
    values = evaluate(text.strip())
    if values is None or any(value != values[0] for value in values):  # a variable differs between sample points
        return None
    value = values[0]
    if value is None or isinstance(value, complex):
        return None
    return value if -MAX_BOUND < value < MAX_BOUND else None


def _interval(text: str) -> tuple[Piece, str] | None:
    text = text.strip()
    if ALL.fullmatch(text):
        return Piece(-INFINITE, False, INFINITE, False), ""
    signed = SIGNED.fullmatch(text)
    if signed:
        side, is_closed = RAYS[signed.group(1).replace("-", "")]
        return (Piece(-INFINITE, False, 0, is_closed) if side else Piece(0, is_closed, INFINITE, False)), ""
    point = POINT.fullmatch(text)
    if point:
        value = _bound(point.group(1))
        return None if value is None else (Piece(value, True, value, True), "")
    match = INTERVAL.fullmatch(text)
    if match is None:
        return None
    low, high = _bound(match.group(2)), _bound(match.group(3))
    return _piece(low, match.group(1) == "[", high, match.group(4) == "]", "")


def _piece(
    low: Value | None, is_low_closed: bool, high: Value | None, is_high_closed: bool, variable: str
) -> tuple[Piece, str] | None:
    if low is None or high is None or isinstance(low, complex) or isinstance(high, complex) or not low < high:
        return None
    return Piece(
        low, is_low_closed and abs(float(low)) < INFINITE, high, is_high_closed and abs(float(high)) < INFINITE
    ), variable


def _relation(text: str) -> tuple[Piece, str] | None:
    """`x < a`, `a < x`, `a < x < b` or `|x| < a`, read from the smaller side."""
    absolute = ABSOLUTE.fullmatch(text.strip())
    if absolute:
        bound, is_closed = _bound(absolute.group(3)), absolute.group(2) != "<"
        return (
            None
            if bound is None or isinstance(bound, complex)
            else _piece(-bound, is_closed, bound, is_closed, absolute.group(1))
        )
    fields = [field.strip() for field in RELATION.split(text)]
    sides, signs = fields[::2], fields[1::2]
    if not 1 <= len(signs) <= 2:
        return None
    is_falling = [sign.startswith((">", "\\ge", "≥")) for sign in signs]
    if len(set(is_falling)) > 1:
        return None
    if is_falling[0]:
        sides, signs = sides[::-1], signs[::-1]
    is_closed = [sign not in ("<", ">") for sign in signs]
    if len(sides) == 3 and VARIABLE.fullmatch(sides[1]):
        return _piece(_bound(sides[0]), is_closed[0], _bound(sides[2]), is_closed[1], sides[1])
    if len(sides) == 2 and VARIABLE.fullmatch(sides[0]):
        return _piece(-INFINITE, False, _bound(sides[1]), is_closed[0], sides[0])
    if len(sides) == 2 and VARIABLE.fullmatch(sides[1]):
        return _piece(_bound(sides[0]), is_closed[0], INFINITE, False, sides[1])
    return None


def _all_but_one(text: str) -> list[tuple[Piece, str]]:
    """`x \\ne a` as the two rays beside a; empty for anything else."""
    match = EXCLUDED.fullmatch(text.strip())
    value = _bound(match.group(2)) if match else None
    if match is None or value is None:
        return []
    below, above = Piece(-INFINITE, False, value, False), Piece(value, False, INFINITE, False)
    return [(below, match.group(1) or ""), (above, match.group(1) or "")]


def _merged(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The pieces sorted, with touching ones joined, so that equal sets have equal pieces."""
    merged: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (float(_real(piece.low)), not piece.is_low_closed)):
        last = merged[-1] if merged else None
        gap = float(_real(piece.low)) - float(_real(last.high)) if last else 1.0
        if last is None or gap > CLOSE or (abs(gap) <= CLOSE and not (piece.is_low_closed or last.is_high_closed)):
            merged.append(piece)
            continue
        reach = float(_real(piece.high)) - float(_real(last.high))
        high = piece.high if reach > 0 else last.high
        is_closed = (
            last.is_high_closed or piece.is_high_closed if abs(reach) <= CLOSE else (piece if reach > 0 else last)[3]
        )
        merged[-1] = Piece(last.low, last.is_low_closed, high, bool(is_closed))
    return tuple(merged)


def _real(value: Value) -> float:
    assert not isinstance(value, complex), "bounds are real: see _bound"
    return float(value)


def same_real_sets(reference: RealSet, answer: RealSet) -> bool | None:
    """Whether two sets are equal; None if two ends are neither certainly equal nor certainly apart."""
    if reference.variable and answer.variable and reference.variable != answer.variable:
        return None
    if len(reference.pieces) != len(answer.pieces):
        return False
    verdict: bool | None = True
    for left, right in zip(reference.pieces, answer.pieces, strict=True):
        if (left.is_low_closed, left.is_high_closed) != (right.is_low_closed, right.is_high_closed):
            return False
        for one, other in ((left.low, right.low), (left.high, right.high)):
            same = _same_end(one, other, is_rounded=reference.is_rounded or answer.is_rounded)
            if same is False:
                return False
            verdict = verdict and same
    return verdict


def _same_end(one: Value, other: Value, *, is_rounded: bool) -> bool | None:
    if INFINITE in (abs(one), abs(other)):
        return bool(one == other)
    return same_values([one], [other], is_rounded=is_rounded)
