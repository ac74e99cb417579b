"""The plain string comparison behind published MATH and GSM8K numbers, reported beside the verifier's verdict.

MATH: the last box, both sides normalized, equal as strings (Hendrycks et al., arXiv 2103.03874, appendix). Numbers: the
last number of the text, as lm-evaluation-harness' `flexible-extract` for GSM8K. Scores of older work can be compared
only under the rule that made them. That rule is wrong where the verifier is not (`27.0` is not `27`, `1/2` is not
`0.50`), so it never decides a verdict.
"""

import re

from distill.core.schema import AnswerKind, Verdict
from distill.grading.extract import Found, answer_part, find_box
from distill.grading.references import reference_text
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
    """CORRECT, INCORRECT or NO_ANSWER by the rule of older work; empty for an answer kind that it had no rule for."""
    if request.answer_kind not in (AnswerKind.MATH, AnswerKind.NUMBER):
        return ""
    part = answer_part(request.completion, request.reasoning_end)
    found = find_box(part) if part else None
    answer = found.text if isinstance(found, Found) else _last_number(request, part or "")
    if answer is None:
        return Verdict.NO_ANSWER.value
    is_equal = strip_string(answer) == strip_string(reference_text(request.reference))
    return (Verdict.CORRECT if is_equal else Verdict.INCORRECT).value


def _last_number(request: GradeRequest, part: str) -> str | None:
    """The last number, only where a number is expected: MATH's rule reads boxes alone."""
    if request.answer_kind != AnswerKind.NUMBER:
        return None
    found = NUMBER.findall(part[-TAIL_CHARS:])
    return found[-1].replace(",", "").replace("$", "").rstrip(".") if found else None


def strip_string(text: str) -> str:
    """An answer as it is compared: without spaces, units, degrees and currency signs, with all braces written out.

    Named after the function of the MATH data set's own code.
    """
    for piece in REMOVED:
        text = text.replace(piece, "")
    text = text.replace("\\\\", "\\").replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac")
    text = BARE_POINT.sub("0.", UNIT.sub("", text))
    text = BARE_ROOT.sub(r"\\sqrt{\1}", SHORT_LEFT_SIDE.sub("", text.strip()).strip())
    text = HALF_BARE_FRACTION.sub(r"\\frac{\1}{", BARE_FRACTION.sub(r"\\frac{\1}{\2}", text)).replace(" ", "")
    slashed = SLASHED.fullmatch(text)
    text = f"\\frac{{{slashed.group(1)}}}{{{slashed.group(2)}}}" if slashed else text
    return "\\frac{1}{2}" if text == "0.5" else text
