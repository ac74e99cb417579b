"""The request and the result of grading."""

from dataclasses import dataclass
from typing import Protocol

from distill.core.schema import Verdict, content_hash


class HasReference(Protocol):
    """A prompt as the grader reads it: its reference answer and how that is compared."""

    @property
    def reference(self) -> str: ...
    @property
    def answer_kind(self) -> str: ...
    @property
    def entry(self) -> str: ...
    @property
    def language(self) -> str: ...


def reference_identity(prompt: HasReference) -> str:
    """Identity of all that decides the verdicts on a prompt's answers. The prompt's own identity has none of it: a
    corrected reference leaves the problem as it was."""
    return content_hash("reference", prompt.reference, prompt.answer_kind, prompt.entry, prompt.language)


@dataclass(frozen=True)
class GradeRequest:
    """One completion to be compared with one reference answer."""

    completion: str
    reference: str
    answer_kind: str
    entry: str = ""
    """JSON `{"task": name, "entry": {...}}` for reasoning_gym, `[[name, {argument: value}], ...]` for instructions,
    else empty."""
    finish_reason: str = "stop"
    """The engine's finish reason; "length" means that the token limit cut the completion."""
    reasoning_end: str = "</think>"
    """Delimiter after which the answer part begins; "" for a model that has none."""
    must_reason: bool = False
    """The model always closes its reasoning (its chat template may open it): no delimiter means no answer."""
    language: str = ""
    """Code of the prompt's language; where it writes a decimal comma, answers and references may have one."""


def grade_request(
    prompt: HasReference, completion: str, *, finish_reason: str, reasoning_end: str, must_reason: bool = False
) -> GradeRequest:
    """The request that grades a completion of a prompt."""
    return GradeRequest(
        completion=completion,
        reference=prompt.reference,
        answer_kind=prompt.answer_kind,
        entry=prompt.entry,
        finish_reason=finish_reason,
        reasoning_end=reasoning_end,
        must_reason=must_reason,
        language=prompt.language,
    )


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion."""

    verdict: Verdict
    extracted: str
    """The answer that was found in the completion, and compared."""
    rule: str
    """`where:how`: where the answer was found and which comparison gave the verdict, or why there is none."""
    detail: str
    """What went wrong, or a score; for people."""
