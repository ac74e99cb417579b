"""The plain string comparison that published MATH and GSM8K numbers were made with, beside the verifier's verdict.

MATH: the last box, both sides brought to one spelling, equal as strings (Hendrycks et al., arXiv 2103.03874, appendix).
Numbers: the last number of the text, as lm-evaluation-harness' `flexible-extract` for GSM8K. Kept because scores of
older work can only be compared under the rule that made them; it is wrong in ways the verifier is not (`27.0` is not
`27`, `1/2` is not `0.50`), so it never counts.
"""

import re

from distill.core.schema import AnswerKind, Verdict
from distill.grading.compare import reference_text
from distill.grading.extract import Found, answer_part, find_box
from distill.grading.types import GradeRequest

TAIL_CHARS = 2_000
NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
REMOVED = ("\n", "\\!", "\\left", "\\right", "^{\\circ}", "^\\circ", "\\$", "\\%", "%")
UNIT = re.compile(r"\\text\{ .*", re.DOTALL)
BARE_POINT = re.compile(r"(?<![0-9])\.(?=[0-9])")
SHORT_LEFT_SIDE = re.compile(r"^[^=]{1,2}=")
BARE_ROOT = re.compile(r"\\sqrt(?![{\[])\s*(\\[a-z]+|.)")
BARE_FRACTION = re.compile(r"\\frac\s*([0-9a-z])\s*([0-9a-z])")
HALF_BARE_FRACTION = re.compile(r"\\frac\s*([0-9a-z])\s*\{")
SLASHED = re.compile(r"(-?[0-9]+)/(-?[0-9]+)")


def string_match(request: GradeRequest) -> str:
    """CORRECT, INCORRECT or NO_ANSWER as older work would have said; empty where it had no rule."""
    if request.answer_kind not in (AnswerKind.MATH, AnswerKind.NUMBER):
        return ""
    part = answer_part(request.completion, request.reasoning_end)
    found = find_box(part) if part else None
    answer = found.text if isinstance(found, Found) else _last_number(request, part or "")
    if answer is None:
        return Verdict.NO_ANSWER.value
    is_equal = one_spelling(answer) == one_spelling(reference_text(request.reference))
    return (Verdict.CORRECT if is_equal else Verdict.INCORRECT).value


def _last_number(request: GradeRequest, part: str) -> str | None:
    """Only where a number is expected: MATH's rule knows boxes alone."""
    if request.answer_kind != AnswerKind.NUMBER:
        return None
    found = NUMBER.findall(part[-TAIL_CHARS:])
    return found[-1].replace(",", "").replace("$", "").rstrip(".") if found else None


def one_spelling(text: str) -> str:
    """An answer in the spelling that is compared: no spaces, units, degrees or signs of currency, braces everywhere."""
    for piece in REMOVED:
        text = text.replace(piece, "")
    text = text.replace("\\\\", "\\").replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac")
    text = BARE_POINT.sub("0.", UNIT.sub("", text))
    text = BARE_ROOT.sub(r"\\sqrt{\1}", SHORT_LEFT_SIDE.sub("", text.strip()).strip())
    text = HALF_BARE_FRACTION.sub(r"\\frac{\1}{", BARE_FRACTION.sub(r"\\frac{\1}{\2}", text)).replace(" ", "")
    slashed = SLASHED.fullmatch(text)
    text = f"\\frac{{{slashed.group(1)}}}{{{slashed.group(2)}}}" if slashed else text
    return "\\frac{1}{2}" if text == "0.5" else text
