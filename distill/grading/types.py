"""What a grader is asked and what it answers, and the version that goes on every label."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from distill.core.schema import Verdict

RULES_VERSION = 2
"""Raised whenever a change to our own rules can change a verdict."""

PACKAGES = ("math-verify", "latex2sympy2-extended", "antlr4-python3-runtime", "reasoning-gym")


class Graded(Protocol):
    """What a prompt says of its right answer."""

    @property
    def reference(self) -> str: ...
    @property
    def answer_kind(self) -> str: ...
    @property
    def entry(self) -> str: ...


@dataclass(frozen=True)
class GradeRequest:
    """One completion to be compared with one reference answer."""

    completion: str
    reference: str
    answer_kind: str
    entry: str = ""
    """JSON `{"task": name, "entry": {...}}` for reasoning_gym, else empty."""
    finish_reason: str = "stop"
    """As the engine said it; "length" means that the token limit cut the completion."""
    reasoning_end: str = "</think>"
    """Delimiter after which the answer part begins; "" for a model that has none."""
    must_reason: bool = False
    """The model always closes its reasoning (its template may open it unseen): no delimiter means no answer."""


def grade_request(prompt: Graded, completion: str, *, finish_reason: str, reasoning_end: str) -> GradeRequest:
    """What the grader needs to know of a completion for a prompt."""
    return GradeRequest(
        completion=completion,
        reference=prompt.reference,
        answer_kind=prompt.answer_kind,
        entry=prompt.entry,
        finish_reason=finish_reason,
        reasoning_end=reasoning_end,
    )


@dataclass(frozen=True)
class Grade:
    """A verdict, the answer it was reached on, and `where:how` it was reached."""

    verdict: Verdict
    extracted: str
    rule: str
    detail: str


def _installed(package: str) -> str:
    try:
        return f"{package}-{version(package)}"
    except PackageNotFoundError:
        return f"{package}-none"


# Parser releases have moved MATH-500 by eight points (open-r1 #194): a label without them cannot be compared.
VERIFIER_VERSION = ";".join([f"rules-{RULES_VERSION}", *(_installed(package) for package in PACKAGES)])
