"""The problem of a row: the text of its column, or the user turn of a column of chat turns, without fixed text."""

import re
from typing import Any, NamedTuple

from distill.prompts.rows.turns import conversation


class Found(NamedTuple):
    """A text, or why there is none."""

    text: str
    fault: str = ""


def problem_of(value: Any, pattern: str | None, *, stands_alone: bool) -> Found:
    """The problem in a value.

    Args:
        value: text, chat turns, or None.
        pattern: `problem_pattern` of the columns.
        stands_alone: it becomes a prompt; a question that follows others would lose what they said.
    """
    found = _raw_problem(value, stands_alone=stands_alone)
    return found if found.fault or not pattern else _inner(found.text, pattern)


def _raw_problem(value: Any, *, stands_alone: bool) -> Found:
    if value is None:
        return Found("", "no problem")
    turns = conversation(value)
    if turns is None:
        return _text(value) if isinstance(value, str) else _NOT_TEXT
    if turns.fault or not turns.questions:
        return Found("", turns.fault or "no user turn")
    if stands_alone and len(turns.questions) > 1:
        return Found("", "more than one user turn")
    return Found(turns.last_question or turns.questions[0])


_NOT_TEXT = Found("", "problem is not text")


def _text(value: str) -> Found:
    return Found(value) if value.strip() else Found("", "empty problem")


def _inner(problem: str, pattern: str) -> Found:
    match = re.search(pattern, problem, re.DOTALL)
    inner = None if match is None else match["problem"] if "problem" in match.re.groupindex else match[1]
    return Found(inner.strip()) if inner and inner.strip() else Found("", "does not match problem_pattern")
