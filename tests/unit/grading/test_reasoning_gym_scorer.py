"""Generated problems, scored by their own task."""

import json
from typing import Any

from distill.core.schema import Verdict
from distill.grading import GradeRequest, grade


def gym_request(task: str, answer: str, entry: dict[str, Any]) -> GradeRequest:
    return GradeRequest(
        f"<answer>{answer}</answer>", "", "reasoning_gym", entry=json.dumps({"task": task, "entry": entry})
    )


COUNTDOWN = {"question": "", "answer": "2+3", "metadata": {"numbers": [2, 3], "target": 5}}


def test_gym_answers_are_scored_by_their_task() -> None:
    assert grade(gym_request("countdown", "3+2", COUNTDOWN)).verdict == Verdict.CORRECT
    assert grade(gym_request("countdown", "3-2", COUNTDOWN)).verdict == Verdict.INCORRECT


def test_gym_rows_that_cannot_be_scored_are_errors() -> None:
    assert grade(gym_request("no_such_task", "1", COUNTDOWN)).verdict == Verdict.ERROR
    assert grade(GradeRequest("1", "", "reasoning_gym", entry="not json")).rule == "bad_entry"
    assert grade(GradeRequest("", "", "reasoning_gym", entry="{}")).verdict == Verdict.NO_ANSWER
