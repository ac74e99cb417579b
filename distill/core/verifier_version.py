"""The version of the verifier, which is stored with every verdict and is part of stage keys.

It stands apart from the verifier itself: whether a stage is stale is told without loading a parser.
"""

from importlib.metadata import PackageNotFoundError, version

RULES_VERSION = 6
"""Raised whenever a change to our own rules can change a verdict."""

PACKAGES = ("math-verify", "latex2sympy2-extended", "antlr4-python3-runtime", "reasoning-gym")


def _installed(package: str) -> str:
    try:
        return f"{package}-{version(package)}"
    except PackageNotFoundError:
        return f"{package}-none"


# Parser releases have moved MATH-500 by eight points (open-r1 #194): verdicts of other releases cannot be compared.
VERIFIER_VERSION = ";".join([f"rules-{RULES_VERSION}", *(_installed(package) for package in PACKAGES)])
