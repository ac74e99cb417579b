"""Evaluates small closed forms: enough algebra for most answers, in time linear in their length.

Two expressions are equal if they agree at fixed sample points, exactly for rationals and to eleven digits with roots;
they differ if they are clearly apart at one point. Everything else is left to Math-Verify: functions, relations,
subscripted numbers, ambiguous forms ("1/2x"), deep or large expressions.
"""

import cmath
import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

Value = Fraction | float | complex
Node = Callable[[int], Value]
"""An expression as a function of the index of a sample point."""

MAX_CHARS = 300
MAX_DEPTH = 25
MAX_BITS = 2_000
"""Largest numerator and denominator together, bits; beyond it exact arithmetic is no longer cheap."""
NUM_POINTS = 3
SAME = 1e-11
APART = 1e-3
MAX_FLOAT = 1e8
"""Beyond it, eleven digits no longer distinguish two integers."""

TOKEN = re.compile(
    r"\s*(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|[A-Za-z](?:_(?:\{[A-Za-z0-9]+\}|[A-Za-z0-9]))?|[-+*/^(){}\[\]|])"
)
WORD = re.compile(
    r"(?<!\\)(?<![A-Za-z\\])(?:[A-Za-z]{4,}|sin|cos|tan|cot|sec|csc|log|exp|max|min|mod|det|gcd|lcm|and|not)"
)
TIMES = frozenset({"*", "\\cdot", "\\times"})
FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "\\sin": cmath.sin,
    "\\cos": cmath.cos,
    "\\tan": cmath.tan,
    "\\cot": lambda angle: 1 / cmath.tan(angle),
    "\\sec": lambda angle: 1 / cmath.cos(angle),
    "\\csc": lambda angle: 1 / cmath.sin(angle),
}
GREEK = frozenset(
    f"\\{name}"
    for name in (
        "alpha",
        "beta",
        "gamma",
        "delta",
        "theta",
        "lambda",
        "mu",
        "phi",
        "varphi",
        "omega",
        "rho",
        "sigma",
        "tau",
        "ell",
    )
)
STOPS = frozenset({"", ")", "}", "]", "+", "-"})
FUNCTION_NAMES = frozenset("fghFGHPQpq")
OPENING = {"(": ")", "{": "}", "[": "]"}


class UnsupportedError(ValueError):
    """Not a small closed form."""


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


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction):
        if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
            return _bounded(float(value))
    elif not cmath.isfinite(value):
        raise UnsupportedError("not finite")
    return value


def _inexact(value: Value) -> float | complex:
    return float(value) if isinstance(value, Fraction) else value


def _sum(left: Value, right: Value) -> Value:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left + right)
    return _bounded(_inexact(left) + _inexact(right))


def _product(left: Value, right: Value) -> Value:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left * right)
    return _bounded(_inexact(left) * _inexact(right))


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = base.numerator.bit_length() + base.denominator.bit_length()
        if abs(exponent) * bits <= MAX_BITS:
            return Fraction(base ** int(exponent))
        return _bounded(float(base) ** float(exponent))
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        return _power_of_any_sign(base, exponent)
    if isinstance(exponent, complex) or (isinstance(base, Fraction | float) and base < 0):
        raise UnsupportedError("a branch to choose")
    return _bounded(_inexact(base) ** _inexact(exponent))


def _power_of_any_sign(base: Value, exponent: Value) -> Value:
    if not isinstance(exponent, Fraction):
        raise UnsupportedError("a branch to choose")
    return _bounded(_inexact(base) ** int(exponent))


def _absolute(value: Value) -> Value:
    if isinstance(value, Fraction):
        return abs(value)
    return abs(complex(value))


def _real(value: complex) -> float | complex:
    return value.real if abs(value.imag) < 1e-300 else value


def _root(value: Value, degree: int) -> Value:
    if isinstance(value, complex) or value < 0 or not 1 < degree < 10:
        raise UnsupportedError("a branch to choose")
    if degree == 2 and isinstance(value, Fraction):
        top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if top * top == value.numerator and bottom * bottom == value.denominator:
            return Fraction(top, bottom)
    return _bounded(_inexact(value) ** (1 / degree))


@lru_cache(maxsize=512)
def _sample(name: str, point: int) -> Fraction:
    """The value of a variable at a sample point: a fixed rational near one, of either sign."""
    seed = sum(ord(character) * 31**index for index, character in enumerate(name)) * 7919 + point * 104_729
    size = Fraction(97 + seed % 47, 113 + (seed // 47) % 29)
    return -size if point == 1 else size


class _Parser:
    """Recursive descent over tokens; every method consumes what it returns."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
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
            total = _both(_sum, total, _signed(self.product(), sign))
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
                total = _both(_product, total, factor if token != "/" else _inverse(factor))
            elif may_juxtapose:
                total = _both(_product, total, self.factor())
            else:
                raise UnsupportedError("a/bc is ambiguous")
        return total

    def factor(self) -> Node:
        base = self.atom()
        if self.peek() != "^":
            return base
        self.take()
        exponent = self.group() if self.peek() == "{" else self.exponent_token()
        return _both(_power, base, exponent)

    def exponent_token(self) -> Node:
        """An exponent without braces: one digit or letter. "10^12" is refused: TeX raises the 1, writers mean 12."""
        token = self.take()
        if token.isdigit() and len(token) == 1:
            return _constant(Fraction(token))
        if len(token) == 1 and token.isalpha():
            return _variable(token)
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
            return _constant(math.pi)
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
            return _both(_product, self.argument(), _inverse(self.argument()))
        if token == "\\sqrt":
            return self.root()
        if token == "\\pi":
            return _constant(math.pi)
        if token in FUNCTIONS:
            return self.function(FUNCTIONS[token])
        if token in GREEK:
            return _variable(token)
        if token[0].isalpha():
            if token in FUNCTION_NAMES and self.peek() == "(":
                raise UnsupportedError("a function")
            return _variable(token)
        raise UnsupportedError(token)

    def absolute(self) -> Node:
        """An absolute value; inside it, the next bar closes."""
        self.num_open_bars += 1
        inner = self.sum()
        self.take("|")
        self.num_open_bars -= 1
        return lambda point: _absolute(inner(point))

    def number(self, token: str) -> Node:
        value = Fraction(token)
        after = self.tokens[self.position : self.position + 7]
        is_mixed = after[:2] == ["\\frac", "{"] and after[3:5] == ["}", "{"] and after[6:] == ["}"]
        if is_mixed and token.isdigit() and after[2].isdigit() and after[5].isdigit():
            self.position += 7
            value += Fraction(int(after[2]), int(after[5]))
        if self.peek() == "\\degree":
            self.take()
            return _constant(float(value) * math.pi / 180)
        return _constant(value)

    def function(self, function: Callable[[complex], complex]) -> Node:
        """A trigonometric function of a group, or of the factors up to a sign, a bracket or the next function."""
        power: Node | None = None
        if self.peek() == "^":
            self.take()
            power = self.exponent_token()  # "\\cos^{-1}" is an inverse, not a power: refused
        if self.peek() in OPENING:
            argument = self.group()
        else:
            argument = self.factor()
            while self.peek() not in STOPS | TIMES | OPENING.keys() | FUNCTIONS.keys() | {"/"}:
                argument = _both(_product, argument, self.factor())
        node: Node = lambda point: _bounded(_real(function(_inexact(argument(point)))))  # noqa: E731
        return node if power is None else _both(_power_of_any_sign, node, power)

    def root(self) -> Node:
        degree = 2
        if self.peek() == "[":
            self.take()
            token = self.take()
            degree = int(token) if token.isdigit() and len(token) == 1 else 0
            self.take("]")
        inner = self.argument()
        return lambda point: _root(inner(point), degree)


def _constant(value: Value) -> Node:
    return lambda point: value


def _variable(name: str) -> Node:
    if name == "i":
        return _constant(1j)
    if name == "e":
        return _constant(math.e)
    return lambda point: _sample(name, point)


def _both(operation: Callable[[Value, Value], Value], left: Node, right: Node) -> Node:
    return lambda point: operation(left(point), right(point))


def _signed(node: Node, sign: str) -> Node:
    return node if sign == "+" else lambda point: -node(point)


def _inverse(node: Node) -> Node:
    return lambda point: 1 / node(point)


FAULTS = (UnsupportedError, ZeroDivisionError, OverflowError, RecursionError)


@lru_cache(maxsize=4096)
def evaluate(text: str) -> tuple[Value | None, ...] | None:
    """The values of a normalized expression at the sample points, or None if it is not a small closed form.

    The value is None at a point where the expression is undefined or too large: another point may still tell.
    """
    try:
        parser = _Parser(_tokens(text))
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


def is_constant(text: str) -> bool:
    """Whether a normalized expression has the same value at every sample point."""
    values = evaluate(text)
    return values is not None and values[0] is not None and all(value == values[0] for value in values)


def same_values(reference: Sequence[Value | None], answer: Sequence[Value | None]) -> bool | None:
    """True if they agree at all points, False if they are clearly apart at one, None in between."""
    verdict: bool | None = True
    for left, right in zip(reference, answer, strict=True):
        agreed = None if left is None or right is None else _same_value(left, right)
        if agreed is False:
            return False
        verdict = verdict and agreed
    return verdict


def _same_value(left: Value, right: Value) -> bool | None:
    is_exact = isinstance(left, Fraction) and isinstance(right, Fraction)
    if is_exact and left == right:
        return True
    try:
        a, b = complex(left), complex(right)
    except OverflowError:
        return None
    distance, size = abs(a - b), max(abs(a), abs(b), 1e-6)
    if distance > APART * size:
        return False
    return None if is_exact or distance > SAME * size or size > MAX_FLOAT else True
