"""reasoning-gym's own scorers. They need no data set configuration: the entry holds everything that a scorer reads."""

import json
import re
from functools import lru_cache
from typing import Any, NamedTuple

TUPLE, PAIRS = "__tuple__", "__pairs__"
"""Names of what JSON has no form for: a tuple, and a mapping whose keys are not text."""
TEXT = re.compile(r"\\(?:text|mathrm|texttt)\s*\{([^{}]*)\}")
FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
SCORER_FAULTS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, AssertionError)
"""What scorers raise on a text that they cannot read."""


class Entry(NamedTuple):
    """A generated problem and the task that it belongs to."""

    task: str
    entry: dict[str, Any]


def pack_entry(task: str, entry: dict[str, Any]) -> str:
    """An entry as JSON that `parse_entry` gives back as the library made it: scorers tell tuples from lists."""
    return json.dumps({"task": task, "entry": _tagged(entry)}, default=str, ensure_ascii=False)


def _tagged(value: Any) -> Any:
    if isinstance(value, tuple):
        return {TUPLE: [_tagged(item) for item in value]}
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    if all(isinstance(key, str) for key in value):
        return {key: _tagged(item) for key, item in value.items()}
    return {PAIRS: [[_tagged(key), _tagged(item)] for key, item in value.items()]}


def _untagged(value: dict[str, Any]) -> Any:
    if value.keys() == {TUPLE}:
        return tuple(value[TUPLE])
    if value.keys() == {PAIRS}:
        return dict(value[PAIRS])
    return value


def parse_entry(text: str) -> Entry:
    """Parses `{"task": name, "entry": {...}}`.

    Raises:
        ValueError: it is not JSON of this form.
    """
    data = json.loads(text, object_hook=_untagged)
    if not isinstance(data, dict) or not isinstance(data.get("task"), str) or not isinstance(data.get("entry"), dict):
        raise ValueError('a reasoning_gym row needs entry = {"task": name, "entry": {...}}')
    return Entry(data["task"], data["entry"])


@lru_cache(maxsize=64)
def _scorer(task: str) -> Any:
    from reasoning_gym import get_score_answer_fn  # 4 s of imports: only in processes that need it

    return get_score_answer_fn(task)


class Scored(NamedTuple):
    """The best score of an answer, in [0, 1], and the spelling that has it."""

    score: float
    answer: str


def spellings(answer: str) -> list[str]:
    """An answer as it was written, then without what a sentence or LaTeX has put around it; no duplicates.

    Scorers compare text: "184." is not 184 to them, nor `**184**`, nor `\\\\frac{1}{2}`.
    """
    first_line = answer.strip().partition("\n")[0]
    bare = [_bare(text) for text in (answer, first_line)]
    plain = [FRACTION.sub(r"\1/\2", TEXT.sub(r"\1", text)).replace("\\%", "%").replace("\\$", "$") for text in bare]
    return list(dict.fromkeys([answer, *bare, *plain]))


def _bare(text: str) -> str:
    text = text.strip(" \t\n*`$").removeprefix("\\(").removesuffix("\\)").strip()
    return text.removesuffix(".").removesuffix("。")


def score(text: str, answer: str) -> Scored:
    """The task's own score of an answer, the best of its spellings.

    Raises:
        Whatever the scorer raises, if it reads none of them.
    """
    task, entry = parse_entry(text)
    scorer = _scorer(task)
    scores: list[Scored] = []
    fault: Exception | None = None
    for spelling in spellings(answer):
        try:
            scores.append(Scored(float(scorer(spelling, entry)), spelling))
        except SCORER_FAULTS as error:
            fault = fault or error
        if scores and scores[-1].score >= 1.0:
            break
    if fault is not None and not scores:
        raise fault
    return max(scores, key=lambda scored: scored.score)
