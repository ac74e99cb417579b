"""Evaluates small closed forms: enough algebra for most answers, in time linear in their length.

Two expressions are equal if they agree at fixed sample points: exactly for rationals, to eleven digits with roots where
no number of the expression is large, else at high precision. They differ if they differ at one point; where a decimal
is involved, which may be rounded, only if they are clearly apart. Everything else is left to Math-Verify: relations,
subscripted numbers, ambiguous forms ("1/2x"), deep or large expressions.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

from distill.grading.arithmetic import (
    FAULTS,
    FLOATS,
    FUNCTIONS,
    PRECISE_BITS,
    Floats,
    UnsupportedError,
    Value,
    binomial,
    factorial,
    precise,
)
from distill.grading.normalize import with_opaque_symbols

Node = Callable[[int], Value]
"""An expression as a function of the index of a sample point."""

MAX_CHARS = 300
MAX_DEPTH = 25
NUM_POINTS = 3
SAME = 1e-11
APART = 1e-3
MAX_FLOAT = 1e8
"""Beyond it, eleven digits no longer distinguish two integers."""

TOKEN = re.compile(
    r"\s*(\d+(?:\.\d+)?|\.\d+|\\log_(?:\{\d+\}|\d)|\\[A-Za-z]+|[A-Za-z](?:_(?:\{[A-Za-z0-9]+\}|[A-Za-z0-9]))?"
    r"|[-+*/^(){}\[\]|!])"
)
WORD = re.compile(
    r"(?<!\\)(?<![A-Za-z\\])(?:[A-Za-z]{4,}|[A-Z][a-z]{2}|sin|cos|tan|cot|sec|csc|log|exp|max|min|mod|det|gcd|lcm|and|not)"
)
TIMES = frozenset({"*", "\\cdot", "\\times"})
FUNCTION_COMMANDS = frozenset({*FUNCTIONS, "\\ln"})
_GREEK = "alpha|beta|gamma|delta|theta|lambda|mu|phi|varphi|omega|rho|sigma|tau|ell"
GREEK = frozenset(f"\\{name}" for name in _GREEK.split("|"))
INVERSES = {"\\sin": "\\arcsin", "\\cos": "\\arccos", "\\tan": "\\arctan"}
STOPS = frozenset({"", ")", "}", "]", "+", "-"})
FUNCTION_NAMES = frozenset("fghFGHPQpq")
OPENING = {"(": ")", "{": "}", "[": "]"}


def _tokens(text: str) -> list[str]:
    if len(text) > MAX_CHARS or WORD.search(text):
        raise UnsupportedError(text[:40])
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise UnsupportedError(text[position : position + 20])
        tokens.append(match.group(1))
        position = match.end()
    return tokens


@lru_cache(maxsize=512)
def _sample(name: str, point: int) -> Fraction:
    """The value of a variable at a sample point: a fixed rational near one, of either sign."""
    seed = sum(ord(character) * 31**index for index, character in enumerate(name)) * 7919 + point * 104_729
    size = Fraction(97 + seed % 47, 113 + (seed // 47) % 29)
    return -size if point == 1 else size


class _Parser:
    """Recursive descent over tokens; every method consumes what it returns."""

    def __init__(self, tokens: list[str], arithmetic: Floats) -> None:
        self.tokens = tokens
        self.math = arithmetic
        self.position = 0
        self.depth = 0
        self.num_open_bars = 0

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise UnsupportedError(f"expected {expected or 'more'}")
        self.position += 1
        return token

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnsupportedError("too deep")
        sign = self.take() if self.peek() in ("+", "-") else "+"
        total = _signed(self.product(), sign)
        while self.peek() in ("+", "-"):
            sign = self.take()
            total = _both(self.math.sum, total, _signed(self.product(), sign))
        self.depth -= 1
        return total

    def product(self) -> Node:
        total = self.factor()
        may_juxtapose = True
        while (token := self.peek()) not in STOPS and not (token == "|" and self.num_open_bars):
            if token in TIMES or token == "/":
                self.take()
                may_juxtapose = token != "/"
                factor = self.factor()
                total = _both(self.math.product, total, factor if token != "/" else _inverse(factor))
            elif may_juxtapose:
                total = _both(self.math.product, total, self.factor())
            else:
                raise UnsupportedError("a/bc is ambiguous")
        return total

    def factor(self) -> Node:
        base = self.atom()
        if self.peek() == "!":
            self.take()
            return _factorial(base)
        if self.peek() != "^":
            return base
        self.take()
        exponent = self.group() if self.peek() in ("{", "(") else self.exponent_token()
        return _both(self.math.power, base, exponent)

    def exponent_token(self) -> Node:
        """An exponent without braces: one digit or letter. "10^12" is refused: TeX raises the 1, writers mean 12."""
        token = self.take()
        if token.isdigit() and len(token) == 1:
            return _constant(Fraction(token))
        if len(token) == 1 and token.isalpha():
            return self.variable(token)
        raise UnsupportedError("exponent")

    def group(self) -> Node:
        closing = OPENING[self.take()]
        inner = self.sum()
        self.take(closing)
        return inner

    def argument(self) -> Node:
        """The argument of \\frac and \\sqrt: a group, or "\\pi" alone."""
        if self.peek() == "{":
            return self.group()
        if self.peek() == "\\pi":
            self.take()
            return _constant(self.math.pi)
        raise UnsupportedError("argument without braces")

    def atom(self) -> Node:
        token = self.peek()
        if token in OPENING:
            return self.group()
        self.take()
        if token == "|":
            return self.absolute()
        if token[0].isdigit() or token[0] == ".":
            return self.number(token)
        if token == "\\frac":
            return _both(self.math.product, self.argument(), _inverse(self.argument()))
        if token == "\\sqrt":
            return self.root()
        if token == "\\pi":
            return _constant(self.math.pi)
        if token in FUNCTION_COMMANDS:
            return self.function(token)
        if token.startswith("\\log_"):
            return self.function(f"\\log_{token[5:].strip('{}')}")
        if token == "\\binom":
            return _both(binomial, self.argument(), self.argument())
        if token in GREEK:
            return self.variable(token)
        if token[0].isalpha():
            if token in FUNCTION_NAMES and self.peek() == "(":
                raise UnsupportedError("a function")
            return self.variable(token)
        raise UnsupportedError(token)

    def absolute(self) -> Node:
        """An absolute value; inside it, the next bar closes."""
        self.num_open_bars += 1
        inner = self.sum()
        self.take("|")
        self.num_open_bars -= 1
        return lambda point: self.math.absolute(inner(point))

    def number(self, token: str) -> Node:
        value = Fraction(token)
        after = self.tokens[self.position : self.position + 7]
        is_mixed = after[:2] == ["\\frac", "{"] and after[3:5] == ["}", "{"] and after[6:] == ["}"]
        if is_mixed and token.isdigit() and after[2].isdigit() and after[5].isdigit():
            self.position += 7
            value += Fraction(int(after[2]), int(after[5]))
        if self.peek() == "\\degree":
            self.take()
            return _constant(self.math.product(value / 180, self.math.pi))
        return _constant(value)

    def function(self, name: str) -> Node:
        """A function of a group, or of the factors up to a sign, a bracket or the next function."""
        power: Node | None = None
        if name in INVERSES and self.tokens[self.position : self.position + 5] == ["^", "{", "-", "1", "}"]:
            name, self.position = INVERSES[name], self.position + 5
        if self.peek() == "^":
            self.take()
            power = self.exponent_token()
        if self.peek() in OPENING:
            argument = self.group()
        else:
            argument = self.factor()
            while self.peek() not in STOPS | TIMES | OPENING.keys() | FUNCTION_COMMANDS | {"/"}:
                argument = _both(self.math.product, argument, self.factor())
        node: Node = lambda point: self.math.apply(name, argument(point))  # noqa: E731
        return node if power is None else _both(self.math.power_of_any_sign, node, power)

    def variable(self, name: str) -> Node:
        if name == "i":
            return _constant(self.math.i)
        if name == "e":
            return _constant(self.math.e)
        return lambda point: _sample(name, point)

    def root(self) -> Node:
        degree = 2
        if self.peek() == "[":
            self.take()
            token = self.take()
            degree = int(token) if token.isdigit() and len(token) == 1 else 0
            self.take("]")
        inner = self.argument()
        return lambda point: self.math.root(inner(point), degree)


def _constant(value: Value) -> Node:
    return lambda point: value


def _both(operation: Callable[[Value, Value], Value], left: Node, right: Node) -> Node:
    return lambda point: operation(left(point), right(point))


def _signed(node: Node, sign: str) -> Node:
    return node if sign == "+" else lambda point: -node(point)


def _inverse(node: Node) -> Node:
    return lambda point: 1 / node(point)


def _factorial(node: Node) -> Node:
    return lambda point: factorial(node(point))


def _values(text: str, arithmetic: Floats) -> tuple[Value | None, ...] | None:
    try:
        parser = _Parser(_tokens(with_opaque_symbols(text)), arithmetic)
        root = parser.sum()
        if parser.peek():
            return None
    except FAULTS:
        return None
    values = tuple(_value_at(root, point) for point in range(NUM_POINTS))
    return values if any(value is not None for value in values) else None


def _value_at(root: Node, point: int) -> Value | None:
    try:
        return root(point)
    except FAULTS:
        return None


@lru_cache(maxsize=4096)
def evaluate(text: str) -> tuple[Value | None, ...] | None:
    """The values of a normalized expression at the sample points, or None if it is not a small closed form.

    The value is None at a point where the expression is undefined or too large: another point may still tell.
    """
    return _values(text, FLOATS)


@lru_cache(maxsize=256)
def evaluate_precisely(text: str) -> tuple[Value | None, ...] | None:
    """As `evaluate`, with inexact values of `PRECISE_BITS` bits and no limit to their size."""
    return _values(text, precise())


def is_constant(text: str) -> bool:
    """Whether a normalized expression has the same value at every sample point."""
    values = evaluate(text)
    return values is not None and values[0] is not None and all(value == values[0] for value in values)


LARGE = re.compile(r"\d{7}|\^\s*\{[^{}]*(?:\d{2}|[A-Za-z])[^{}]*\}|\^\s*\{[^{}]*\{|!|\\binom|\d{4,}")
"""A number or an exponent with which two different closed forms may agree in eleven digits."""
CANCELLING = re.compile(r"[-+]|\\(?:sin|cos|tan|ln|log|arctan|exp)")
EXPONENT = re.compile(r"\^\s*(?:\{[^{}]*\}|\S)")
DECIMAL = re.compile(r"\d\.\d|\.\d")


def same_expressions(reference: str, answer: str) -> bool | None:
    """Whether two normalized expressions are equal; None where that is not certain."""
    is_rounded = bool(DECIMAL.search(reference) or DECIMAL.search(answer))
    values, others = evaluate(reference), evaluate(answer)
    verdict = same_values(values, others, is_rounded=is_rounded) if values and others else None
    if verdict is False or is_rounded:
        return verdict
    if verdict and (_are_exact(values) or not (_is_large(reference, values) or _is_large(answer, others))):
        return True
    precise_values, precise_others = evaluate_precisely(reference), evaluate_precisely(answer)
    if precise_values is None or precise_others is None:
        return verdict
    may_cancel = any(CANCELLING.search(EXPONENT.sub("", text).lstrip("-+")) for text in (reference, answer))
    return _agreement(precise_values, precise_others, lambda a, b: _same_precise_value(a, b, may_cancel))


def _is_large(text: str, values: Sequence[Value | None] | None) -> bool:
    sizes = [abs(value) for value in values or () if value is not None]
    return bool(LARGE.search(text)) or any(size > 1e6 or 0 < size < 1e-5 for size in sizes)


def _are_exact(values: Sequence[Value | None] | None) -> bool:
    return values is not None and all(isinstance(value, Fraction) for value in values)


def same_values(
    reference: Sequence[Value | None], answer: Sequence[Value | None], *, is_rounded: bool = True
) -> bool | None:
    """True if they agree at all points, False if they differ at one, None in between.

    `is_rounded`: one of them was written with decimals, so exact values that are close may be meant to be equal.
    """
    return _agreement(reference, answer, lambda left, right: _same_value(left, right, is_rounded))


def _agreement(
    reference: Sequence[Value | None], answer: Sequence[Value | None], same: Callable[[Value, Value], bool | None]
) -> bool | None:
    """True if all values are the same, False if two differ, None in between."""
    verdict: bool | None = True
    for left, right in zip(reference, answer, strict=True):
        agreed = None if left is None or right is None else same(left, right)
        if agreed is False:
            return False
        verdict = verdict and agreed
    return verdict


def _same_value(left: Value, right: Value, is_rounded: bool) -> bool | None:
    is_exact = isinstance(left, Fraction) and isinstance(right, Fraction)
    if is_exact and (left == right or not is_rounded):
        return bool(left == right)
    try:
        a, b = complex(left), complex(right)
    except OverflowError:
        return None
    distance, size = abs(a - b), max(abs(a), abs(b), 1e-6)
    if distance > APART * size:
        return False
    return None if is_exact or distance > SAME * size or size > MAX_FLOAT else True


def _same_precise_value(left: Value, right: Value, may_cancel: bool) -> bool | None:
    """Equal to half of the bits. A value of nothing but rounding errors, left by a difference, tells nothing."""
    arithmetic = precise()
    a, b = arithmetic.inexact(left), arithmetic.inexact(right)
    size, unit = max(abs(a), abs(b)), arithmetic.module.mpf(2)
    if size == 0 or (may_cancel and size < unit ** (-PRECISE_BITS * 9 // 10)):
        return True if size == 0 else None
    return bool(abs(a - b) <= size * unit ** (-PRECISE_BITS // 2))
