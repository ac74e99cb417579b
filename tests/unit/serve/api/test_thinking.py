"""The next engine request of an answer: budget forcing, and speculative thinking with a helper. Pure."""

import json
from typing import Any

import pytest

from serve.api.http_errors import APIError
from serve.api.limits import Limits
from serve.api.reasoning_parser import Delimiters
from serve.api.request_schema import check_request
from serve.api.thinking import (
    MAX_SEGMENTS,
    AnswerSoFar,
    NextRequest,
    Speculation,
    behind_prefix,
    budget_forcing,
    closing_text,
    speculative_thinking,
)

THINK, OPEN = Delimiters(), Delimiters(is_open=True)
FIELDS: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}], "max_tokens": 100}
HELP = Speculation(model="large", max_tokens=30, step_tokens=20, triggers=("\n\nWait",))


def write(next_request: NextRequest, *segments: tuple[str, int, str]) -> tuple[AnswerSoFar, list[dict[str, Any]]]:
    """The answer of segments that end with (text, tokens, finish reason), and the request of each."""
    answer, asked = AnswerSoFar(), []
    for text, tokens, finish_reason in segments:
        segment = next_request(answer)
        assert segment is not None, "the answer is complete before the script ends"
        asked.append({**segment.fields, "continues": segment.continues})
        answer = answer.after(segment, segment.inserted + text, tokens, finish_reason)
    return answer, asked


def test_the_first_segment_ends_with_the_budget_or_the_requested_length() -> None:
    for fields, budget, expected in [(FIELDS, 20, 20), (FIELDS, 500, 100), ({**FIELDS, "max_tokens": 7}, 20, 7)]:
        segment = budget_forcing({**fields, "thinking_budget": budget}, budget, THINK)(AnswerSoFar())
        assert segment is not None
        assert segment.fields["max_tokens"] == expected and "thinking_budget" not in segment.fields
    segment = budget_forcing({"messages": [], "max_completion_tokens": 7}, 20, THINK)(AnswerSoFar())
    assert segment is not None and segment.fields == {"messages": [], "max_tokens": 7}


def test_reasoning_that_spent_its_budget_is_closed_and_answered() -> None:
    answer, asked = write(budget_forcing(FIELDS, 20, THINK), ("<think>so", 20, "length"), ("It", 5, "stop"))
    assert asked[1]["max_tokens"] == 80 and asked[1]["messages"] == FIELDS["messages"], "no turn is rendered again"
    assert asked[1]["continues"] == "<think>so\n</think>\n\n"
    assert answer.text == "<think>so\n</think>\n\nIt" and budget_forcing(FIELDS, 20, THINK)(answer) is None
    assert answer.usage(5) == {"prompt_tokens": 5, "completion_tokens": 25, "total_tokens": 30}


def test_reasoning_that_closed_in_time_is_continued_unchanged() -> None:
    _, asked = write(budget_forcing(FIELDS, 20, THINK), ("<think>so</think>It", 20, "length"), ("", 0, "stop"))
    assert asked[1]["continues"] == "<think>so</think>It"


@pytest.mark.parametrize(("finish_reason", "used"), [("stop", 9), ("length", 100)])
def test_no_second_segment_where_the_answer_is_complete_or_all_tokens_are_used(finish_reason: str, used: int) -> None:
    next_request = budget_forcing(FIELDS, 20, THINK)
    answer, _ = write(next_request, ("x", used, finish_reason))
    assert next_request(answer) is None


@pytest.mark.parametrize(
    ("text", "delimiters", "inserted"),
    [
        ("<think>so</th", THINK, "ink>\n\n"),
        ("so</think", OPEN, ">\n\n"),
        ("<th", THINK, "ink>\n\n</think>\n\n"),
        ("<b>4</b>", THINK, ""),
    ],
)
def test_a_budget_that_ends_within_a_delimiter_has_the_rest_of_it_written(
    text: str, delimiters: Delimiters, inserted: str
) -> None:
    _, asked = write(budget_forcing(FIELDS, 20, delimiters), (text, 20, "length"), ("4", 1, "stop"))
    assert asked[1]["continues"] == text + inserted


def test_an_answer_without_reasoning_is_not_closed() -> None:
    assert closing_text("4 is", THINK) == ""
    assert closing_text("hm", OPEN) == "\n</think>\n\n"


def test_the_helper_writes_the_step_at_which_the_student_doubts_and_no_other() -> None:
    next_request = speculative_thinking(FIELDS, HELP, THINK)
    answer, asked = write(
        next_request,
        ("<think>7 is odd.\n\nWait", 9, "stop"),
        (", it is prime.\n\n", 8, "stop"),
        ("So yes.</think>Yes", 6, "stop"),
    )
    assert [request["model"] for request in asked] == ["m", "large", "m"]
    assert [request["stop"] for request in asked] == [["\n\nWait"], ["\n\n"], ["\n\nWait"]]
    assert [request["max_tokens"] for request in asked] == [100, 20, 83]
    assert asked[1]["continues"].endswith("odd.\n\nWait")
    assert next_request(answer) is None and answer.text.endswith("Wait, it is prime.\n\nSo yes.</think>Yes")
    assert answer.usage(1) == {"prompt_tokens": 1, "completion_tokens": 23, "total_tokens": 24, "helper_tokens": 8}


def test_a_student_that_never_doubts_is_asked_once() -> None:
    next_request = speculative_thinking(FIELDS, HELP, THINK)
    for end in [("<think>a</think>4", 9, "stop"), ("<think>a", 100, "length")]:
        answer, _ = write(next_request, end)
        assert next_request(answer) is None and "helper_tokens" not in answer.usage(1)


def test_once_the_helper_has_spent_its_budget_the_student_continues_alone() -> None:
    next_request = speculative_thinking(FIELDS, HELP, THINK)
    doubt, step = ("a\n\nWait", 5, "stop"), ("b", 20, "length")
    _, asked = write(next_request, doubt, step, doubt, ("c", 10, "length"), ("d", 1, "stop"))
    assert [request["model"] for request in asked] == ["m", "large", "m", "large", "m"]
    assert asked[3]["max_tokens"] == 10 and "stop" not in asked[4]


def test_no_doubt_counts_after_the_reasoning_or_after_many_segments() -> None:
    next_request = speculative_thinking({**FIELDS, "max_tokens": 10_000}, HELP, THINK)
    answer = AnswerSoFar(
        text="<think>a</think>b\n\nWait", used_tokens=9, finish_reason="stop", num_segments=2, first="m", last="m"
    )
    segment = next_request(answer)
    assert segment is not None and segment.fields["model"] == "m" and "stop" not in segment.fields
    segment = next_request(answer._replace(text="<think>\n\nWait", num_segments=MAX_SEGMENTS))
    assert segment is not None and segment.fields["model"] == "m" and "stop" not in segment.fields


def test_all_segments_together_keep_to_the_requested_tokens() -> None:
    next_request = speculative_thinking({**FIELDS, "max_tokens": 12}, HELP, None)
    answer, asked = write(next_request, ("a\n\nWait", 5, "stop"), ("b", 7, "length"))
    assert asked[1]["max_tokens"] == 7 and next_request(answer) is None


@pytest.mark.parametrize("clash", [{"n": 2}, {"stop": "x"}, {"thinking_budget": 5}, {"logprobs": True}])
def test_a_request_that_cannot_be_split_into_segments_is_refused(clash: dict[str, Any]) -> None:
    body = FIELDS | {"speculative": {"model": "large"}} | clash
    with pytest.raises(APIError, match="speculative: cannot be combined with"):
        check_request("/v1/chat/completions", json.dumps(body).encode(), Limits())


@pytest.mark.parametrize(
    ("delimiters", "prefix", "is_open", "is_closed"),
    [
        (THINK, "<think>\nWe add 3", True, False),
        (THINK, "<think>a</think>\nIt is", False, True),
        (THINK, "It is", False, True),
        (THINK, "", False, False),
        (THINK, "<thi", False, False),
        (OPEN, "We add 3", True, False),
        (OPEN, "We add 3</think>It", False, True),
    ],
)
def test_what_is_put_in_a_models_mouth_opens_or_closes_its_reasoning(
    delimiters: Delimiters, prefix: str, is_open: bool, is_closed: bool
) -> None:
    found = behind_prefix(delimiters, prefix)
    assert (found.is_open, found.is_closed) == (is_open, is_closed)
