"""reasoning-gym's own scorers. They need no data set configuration: the entry holds everything that a scorer reads."""

import json
from functools import lru_cache
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A generated problem and the task that it belongs to."""

    task: str
    entry: dict[str, Any]


def parse_entry(text: str) -> Entry:
    """Parses `{"task": name, "entry": {...}}`.

    Raises:
        ValueError: it is not JSON of this form.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or not isinstance(data.get("task"), str) or not isinstance(data.get("entry"), dict):
        raise ValueError('a reasoning_gym row needs entry = {"task": name, "entry": {...}}')
    return Entry(data["task"], data["entry"])


@lru_cache(maxsize=64)
def _scorer(task: str) -> Any:
    from reasoning_gym import get_score_answer_fn  # 4 s of imports: only in processes that need it

    return get_score_answer_fn(task)


def score(text: str, answer: str) -> float:
    """The task's own score of an answer, in [0, 1]."""
    task, entry = parse_entry(text)
    return float(_scorer(task)(answer, entry))
