"""The version of the verifier, which is stored with every verdict and is part of stage keys.

It stands apart from the verifier itself: whether a stage is stale is told without loading a parser.
"""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from distill.core.schema import AnswerKind

RULES_VERSION = 7
"""Raised whenever a change to our own rules can change a verdict."""

PACKAGES = ("math-verify", "latex2sympy2-extended", "antlr4-python3-runtime", "reasoning-gym")

OF_KIND = {
    AnswerKind.INSTRUCTIONS: ("instructions-2", ("if-verifiable", "langdetect", "nltk")),
    AnswerKind.REFUSAL: ("refusals-3", ()),
}
"""Kinds of answers with a version of their own, raised in the same way, and packages: other verdicts do not depend on
them, and stay valid."""


def _installed(package: str) -> str:
    try:
        return f"{package}-{version(package)}"
    except PackageNotFoundError:
        return f"{package}-none"


# Parser releases have moved MATH-500 by eight points (open-r1 #194): verdicts of other releases cannot be compared.
VERIFIER_VERSION = ";".join([f"rules-{RULES_VERSION}", *(_installed(package) for package in PACKAGES)])


def verifier_version(kinds: Iterable[str]) -> str:
    """`VERIFIER_VERSION` with what decides the verdicts on some kinds of answers beside it."""
    asked = set(kinds)
    own = [part for kind, parts in OF_KIND.items() if kind in asked for part in _version_parts(*parts)]
    return ";".join([VERIFIER_VERSION, *own])


def _version_parts(rules: str, packages: Iterable[str]) -> list[str]:
    return [rules, *map(_installed, packages)]
