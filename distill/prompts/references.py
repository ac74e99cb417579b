"""The reference answer of a row: what its column holds, or what traces about the problem agree on."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from distill.config.sources import Columns
from distill.core.schema import WITHOUT_REFERENCE, AnswerKind
from distill.grading.extract import Found, answer_part, find_box
from distill.grading.normalize import normalize
from distill.grading.own_gold import NO_VALUES, is_json_object
from distill.prompts.rows.completions import completions_of
from distill.prompts.rows.json_text import nested
from distill.prompts.rows.parallel import is_uneven, parallel, uneven
from distill.prompts.rows.paths import get
from distill.prompts.rows.values import as_text, is_false

REASONING_END = "</think>"
PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
GROUPED_NUMBER = re.compile(r"[^\d,(\[{]*\d{1,3}(?:,\d{3})+(?:\.\d+)?[^\d,]*")
"""One number with separators of thousands; (1,234) may be a point and 3,5 two numbers."""

PYTHON_TABLE = re.compile(r"\{\s*'[^']*'\s*:")


class Reference(NamedTuple):
    """A reference answer, or why there is none."""

    text: str
    fault: str = ""


def reference_of(row: Mapping[str, Any], columns: Columns, kind: str) -> Reference:
    """The reference answer of a row. With `majority` it is that of the row's own traces, empty where there is none:
    other rows may have more. Instructions and questions that might be refused have none."""
    if kind in WITHOUT_REFERENCE - {AnswerKind.REASONING_GYM}:
        return Reference("")
    if columns.reference_from and columns.correct:
        traces = completions_of(get(row, columns.reference), None, turns=None, end=REASONING_END)
        if is_uneven(get(row, columns.correct), len(traces)):
            return Reference("", uneven(columns.correct, "traces"))
    if columns.reference_from == "majority":
        return Reference(majority(votes_of(row, columns)))
    if columns.reference_from == "box":
        boxes = [box for box in votes_of(row, columns) if box]
        return Reference(boxes[0]) if boxes else Reference("", "no trace boxes an answer")
    found = get(row, columns.reference)
    if found is None and kind == AnswerKind.REASONING_GYM:
        return Reference("")  # the task's own scorer judges without one
    text = as_text(found if kind in (AnswerKind.TEXT, AnswerKind.REASONING_GYM) else _unlisted(found))
    if text is None:
        return Reference("", "answer is not text or number")
    value = final_value(text)
    return Reference(value, reference_fault(value, AnswerKind.TEXT if columns.choices else kind))


def _unlisted(found: Any) -> Any:
    """The texts of a JSON list of texts, such as `["34"]`, which is a list like that of a column of lists. A list of
    numbers, `[1, 2]`, may be an answer as it stands."""
    listed = nested(found) if isinstance(found, str) else None
    is_texts = isinstance(listed, list) and all(isinstance(one, str) for one in listed)
    return listed if is_texts else found


def reference_fault(text: str, kind: str) -> str:
    """Why a text is no reference answer; empty where it may be one."""
    if not text.strip():
        return "no answer"
    if kind != AnswerKind.TEXT and kind != AnswerKind.REASONING_GYM and text.strip().lower() in NO_VALUES:
        return "answer says that there is none"
    if kind != AnswerKind.REASONING_GYM and PYTHON_TABLE.match(text.strip()):
        return "answer is a table in Python's writing, which no path leads into: write it as JSON"
    is_object = kind != AnswerKind.REASONING_GYM and is_json_object(text.strip())
    return "answer is a JSON object: name the field in it, as in `answer.value`" if is_object else ""


def final_value(reference: str) -> str:
    """The final value of a reference solution: in GSM8K it follows `####` on the last line, with commas in numbers."""
    match = re.search(r"####\s*(.+?)\s*$", reference)
    if match is None:
        return reference
    value = match.group(1)
    return value.replace(",", "") if GROUPED_NUMBER.fullmatch(value) else value


# References from traces


def votes_of(row: Mapping[str, Any], columns: Columns) -> list[str]:
    """What each trace of a row boxes, empty where it boxes nothing; without those that are called wrong."""
    traces = completions_of(get(row, columns.reference), None, turns=None, end=REASONING_END)
    marks = parallel(get(row, columns.correct), len(traces))
    pairs = zip(traces, marks, strict=True)
    return [boxed(trace.text) for trace, mark in pairs if not trace.fault and not is_false(mark)]


def boxed(trace: str) -> str:
    """What the last box of a trace's answer holds; empty where there is none."""
    answer = answer_part(trace, REASONING_END, must_reason=False)
    found = find_box(answer) if answer else None
    return found.text.strip() if isinstance(found, Found) else ""


def majority(votes: Sequence[str]) -> str:
    """The answer that more than half of the traces give, at least two; empty where there is none."""
    counts = Counter(map(_same, filter(None, votes)))
    if not counts:
        return ""
    winner, count = counts.most_common(1)[0]
    if count < 2 or 2 * count <= len(votes):
        return ""
    return next(vote for vote in votes if vote and _same(vote) == winner)


def _same(answer: str) -> str:
    """Equal for answers that differ only in how they are written."""
    text = re.sub(r"\s+", "", normalize(answer))
    return str(Decimal(text).normalize()) if PLAIN_NUMBER.fullmatch(text) else text
