"""Values of closed forms: exact for rationals, in floating point or at high precision for everything else.

`Floats` is fast and tells most values apart. `Precise` has thousands of bits and any exponent: closed forms that differ
by an exponent in a tiny term (1 - 7^-30 and 1 - 7^-31, times a root) agree in floating point, and are different.
"""

import cmath
import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mpmath import MPContext  # type: ignore[import-untyped]

Value = Any
"""A Fraction, or an inexact number of the arithmetic: float and complex, or mpmath's mpf and mpc."""

MAX_BITS = 40_000
"""Largest numerator and denominator together, bits; beyond it exact arithmetic is no longer cheap."""
MAX_FACTORIAL = 3_000
PRECISE_BITS = 8_000
MAX_EXPONENT = 1_000_000
"""Largest exponent at high precision; a tower of powers has exponents of a million digits."""


class UnsupportedError(ValueError):
    """Not a small closed form."""


class Floats:
    """Rationals are exact as long as they are small enough, other values are floats."""

    name = "floats"

    def __init__(self) -> None:
        self.module: Any = cmath
        self.pi: Value = math.pi
        self.e: Value = math.e
        self.i: Value = 1j

    def inexact(self, value: Value) -> Value:
        return float(value) if isinstance(value, Fraction) else value

    def is_complex(self, value: Value) -> bool:
        return isinstance(value, complex)

    def simplified(self, value: Value) -> Value:
        """A real number where the imaginary part is nothing."""
        return value.real if isinstance(value, complex) and abs(value.imag) < 1e-300 else value

    def is_finite(self, value: Value) -> bool:
        return cmath.isfinite(value)

    def bounded(self, value: Value) -> Value:
        if isinstance(value, Fraction):
            if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
                return self.bounded(self.inexact(value))
        elif not self.is_finite(value):
            raise UnsupportedError("not finite")
        return value

    def sum(self, left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return self.bounded(left + right)
        return self.bounded(self.inexact(left) + self.inexact(right))

    def product(self, left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return self.bounded(left * right)
        return self.bounded(self.inexact(left) * self.inexact(right))

    def power(self, base: Value, exponent: Value) -> Value:
        is_whole = isinstance(exponent, Fraction) and exponent.denominator == 1
        if isinstance(base, Fraction) and is_whole:
            bits = base.numerator.bit_length() + base.denominator.bit_length()
            if abs(exponent) * bits <= MAX_BITS:
                return Fraction(base ** int(exponent))
            return self.bounded(self.inexact(base) ** int(exponent))
        if is_whole:
            return self.power_of_any_sign(base, exponent)
        if base == self.e and self.is_complex(exponent):
            return self.bounded(self.simplified(self.module.exp(exponent)))
        if self.is_complex(exponent) or self.is_complex(base) or base < 0:
            raise UnsupportedError("a branch to choose")
        if isinstance(exponent, Fraction) and 1 < exponent.denominator < 10:  # 5^{1/3}: as exact as the root is
            return self.power(self.root(base, exponent.denominator), Fraction(exponent.numerator))
        return self.bounded(self.inexact(base) ** self.inexact(exponent))

    def power_of_any_sign(self, base: Value, exponent: Value) -> Value:
        if not isinstance(exponent, Fraction):
            raise UnsupportedError("a branch to choose")
        return self.bounded(self.inexact(base) ** int(exponent))

    def absolute(self, value: Value) -> Value:
        return abs(value)

    def root(self, value: Value, degree: int) -> Value:
        """The real root of a number that is not negative; exact where it is rational."""
        if self.is_complex(value) or value < 0 or not 1 < degree < 10:
            raise UnsupportedError("a branch to choose")
        if isinstance(value, Fraction):
            top, bottom = whole_root(value.numerator, degree), whole_root(value.denominator, degree)
            if top is not None and bottom is not None:
                return Fraction(top, bottom)
        return self.bounded(self.rooted(self.inexact(value), degree))

    def rooted(self, value: Value, degree: int) -> Value:
        return value ** (1 / degree)

    def apply(self, name: str, value: Value) -> Value:
        """A function of one argument, by its LaTeX name; `\\log` with a base is `\\log_b`."""
        if name.startswith("\\log_"):
            return self.bounded(self.logarithm(value) / self.logarithm(Fraction(name[5:])))
        if name == "\\ln":
            return self.bounded(self.logarithm(value))
        return self.bounded(self.simplified(FUNCTIONS[name](self.module, self.inexact(value))))

    def logarithm(self, value: Value) -> Value:
        if self.is_complex(value) or value <= 0:
            raise UnsupportedError("a branch to choose")
        if value == 1:
            return Fraction(0)
        return self.simplified(self.module.log(self.inexact(value)))


class Precise(Floats):
    """The same at `PRECISE_BITS` bits."""

    name = "precise"

    def __init__(self) -> None:
        self.module = MPContext()
        self.module.prec = PRECISE_BITS
        self.pi, self.e, self.i = +self.module.pi, +self.module.e, self.module.mpc(0, 1)

    def inexact(self, value: Value) -> Value:
        if not isinstance(value, Fraction):
            return value
        return self.module.mpf(value.numerator) / value.denominator

    def is_complex(self, value: Value) -> bool:
        return isinstance(value, self.module.mpc)

    def simplified(self, value: Value) -> Value:
        return value.real if self.is_complex(value) and value.imag == 0 else value

    def is_finite(self, value: Value) -> bool:
        return bool(self.module.isfinite(value))

    def power(self, base: Value, exponent: Value) -> Value:
        if abs(exponent) > MAX_EXPONENT:
            raise UnsupportedError("a tower of powers")
        return super().power(base, exponent)

    def apply(self, name: str, value: Value) -> Value:
        if abs(value) > MAX_EXPONENT:
            raise UnsupportedError("a function of a huge number")
        return super().apply(name, value)

    def rooted(self, value: Value, degree: int) -> Value:
        return self.module.root(value, degree)


FUNCTIONS: dict[str, Callable[[Any, Value], Value]] = {
    "\\sin": lambda module, value: module.sin(value),
    "\\cos": lambda module, value: module.cos(value),
    "\\tan": lambda module, value: module.tan(value),
    "\\cot": lambda module, value: 1 / module.tan(value),
    "\\sec": lambda module, value: 1 / module.cos(value),
    "\\csc": lambda module, value: 1 / module.sin(value),
    "\\arctan": lambda module, value: module.atan(value),
    "\\arcsin": lambda module, value: module.asin(value),
    "\\arccos": lambda module, value: module.acos(value),
    "\\exp": lambda module, value: module.exp(value),
}


def whole_root(value: int, degree: int) -> int | None:
    """The root of a whole number where it is whole, else None."""
    if degree == 2:
        root = math.isqrt(value)
    elif value.bit_length() > 900:
        return None
    else:
        root = round(value ** (1 / degree))
    return root if root**degree == value else None


def factorial(value: Value) -> Value:
    """n! of a whole number."""
    return Fraction(math.factorial(_whole(value)))


def binomial(top: Value, bottom: Value) -> Value:
    """The binomial coefficient of two whole numbers."""
    return Fraction(math.comb(_whole(top), _whole(bottom)))


def _whole(value: Value) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= MAX_FACTORIAL:
        raise UnsupportedError("a factorial of no small whole number")
    return int(value)


@lru_cache(maxsize=1)
def precise() -> Precise:
    """The precise arithmetic, made when it is first needed."""
    return Precise()


FLOATS = Floats()
FAULTS = (UnsupportedError, ZeroDivisionError, OverflowError, RecursionError)
"""What a value that does not exist or is too large raises."""
