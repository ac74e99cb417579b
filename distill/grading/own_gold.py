"""Why a reference cannot be graded against: it holds no answer, or the verifier does not accept it as one of itself.

A prompt with such a reference costs its teachers answers that are all ERROR or wrong, so it is found at load.
"""

import json
from collections.abc import Sequence

from distill.core.schema import WITHOUT_REFERENCE, AnswerKind, Verdict
from distill.grading.grader_pool import GraderPool
from distill.grading.references import reference_text
from distill.grading.types import Grade, GradeRequest, HasReference

NO_VALUES = frozenset(
    {"nan", "null", "none", "notfound", "not found", "no answer", "proof", "n/a", "#n/a", "not available"}
)
"""What data sets write where a problem has no answer. As free text each may be the answer itself."""
MAX_SHOWN_CHARS = 200


def reference_fault(reference: str, answer_kind: str) -> str:
    """Why a text is no reference answer, or empty. Some kinds are judged without one."""
    if answer_kind in WITHOUT_REFERENCE:
        return ""
    bare = reference_text(reference).strip()
    if not bare:
        return "the reference is empty"
    if answer_kind == AnswerKind.TEXT:
        return ""
    if bare.strip("$. ").lower() in NO_VALUES:
        return f"the reference {bare!r} says that there is no answer"
    return "the reference is a JSON object" if is_json_object(bare) else ""


def is_json_object(text: str) -> bool:
    """Whether a reference, without white space around it, is a JSON object: the answer is a field in it."""
    if not (text.startswith("{") and text.endswith("}")):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def own_gold_request(row: HasReference) -> GradeRequest | None:
    """The reference as its own answer; None where answers are judged without one. Instructions have no right answer at
    hand: any answer shows whether the checkers can use their arguments."""
    if row.answer_kind == AnswerKind.REFUSAL:
        return None
    if row.answer_kind == AnswerKind.INSTRUCTIONS:
        return GradeRequest("Any answer.", "", row.answer_kind, entry=row.entry)
    if row.answer_kind == AnswerKind.REASONING_GYM:
        if not row.reference.strip():
            return None
        return GradeRequest(f"<answer>{row.reference}</answer>", "", row.answer_kind, entry=row.entry)
    value = reference_text(row.reference)
    stated = f"<answer>{value}</answer>" if row.answer_kind == AnswerKind.TEXT else f"\\boxed{{{value}}}"
    return GradeRequest(stated, row.reference, row.answer_kind, language=row.language)


def _fault_of(grade: Grade, answer_kind: str) -> str:
    if answer_kind == AnswerKind.INSTRUCTIONS:
        return f"its instructions cannot be checked: {grade.detail}" if grade.verdict == Verdict.ERROR else ""
    if grade.verdict == Verdict.CORRECT:
        return ""
    return f"its own reference is graded {grade.verdict} ({grade.rule}{'; ' if grade.detail else ''}{grade.detail})"


def own_gold_faults(rows: Sequence[HasReference], pool: GraderPool) -> list[str]:
    """For each row why its reference cannot be graded, or an empty text.

    Nearly all references equal themselves by the rules; a process is started only for what is left.
    """
    faults = [reference_fault(row.reference, row.answer_kind) for row in rows]
    requests = [None if fault else own_gold_request(row) for fault, row in zip(faults, rows, strict=True)]
    asked = [index for index, request in enumerate(requests) if request is not None]
    grades = pool.grade_batch([request for request in requests if request is not None])
    for index, grade in zip(asked, grades, strict=True):
        faults[index] = _fault_of(grade, rows[index].answer_kind)[:MAX_SHOWN_CHARS]
    return faults
