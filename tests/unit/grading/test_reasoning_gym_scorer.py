"""Generated problems, scored by their own task."""

import json
from typing import Any

from distill.core.schema import Verdict
from distill.grading import GradeRequest, grade
from distill.grading.reasoning_gym_scorer import pack_entry, parse_entry, spellings


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


def test_an_entry_comes_back_as_the_library_made_it() -> None:
    entry = {"answer": "1", "metadata": {"output": ((1, 2), [3, (4,)]), "edges": {0: "red", 1: {"a": ()}}}}
    assert parse_entry(pack_entry("arc_1d", entry)) == ("arc_1d", entry)


def test_an_answer_in_prose_is_scored_without_its_sentence() -> None:
    entry = pack_entry("countdown", COUNTDOWN)
    for text in ("The answer is 3+2.", "**Answer:** `2+3`", "so \\boxed{\\text{2+3}}"):
        assert grade(GradeRequest(text, "", "reasoning_gym", entry=entry)).verdict == Verdict.CORRECT, text
    assert grade(GradeRequest("The answer is 3-2.", "", "reasoning_gym", entry=entry)).verdict == Verdict.INCORRECT


def test_answers_of_many_lines_and_characters_reach_the_scorer() -> None:
    long = "3" + "+0" * 3_000 + "+2"
    result = grade(gym_request("countdown", long, COUNTDOWN))
    assert result.rule == "tag:reasoning_gym"
    assert spellings("1 2\n3 4") == ["1 2\n3 4", "1 2"]
