"""What is asked next of an answer that takes several goes: a thinking budget, hard steps by a helper. Pure."""

import json
from typing import Any

import pytest

from serve.api.http_errors import Refusal
from serve.api.limits import Limits
from serve.api.reasoning_parser import Delimiters
from serve.api.request_schema import check_request
from serve.api.thinking import MAX_GOES, Plan, Speculation, Written, budget_plan, closing, speculative_plan

THINK, OPEN = Delimiters(), Delimiters(is_open=True)
FIELDS: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}], "max_tokens": 100}
HELP = Speculation(model="large", max_tokens=30, step_tokens=20, triggers=("\n\nWait",))


def write(plan: Plan, *goes: tuple[str, int, str]) -> tuple[Written, list[dict[str, Any]]]:
    """What is written by goes that end with (text, tokens, finish reason), and what each was asked."""
    written, asked = Written(), []
    for text, tokens, finish_reason in goes:
        go = plan(written)
        assert go is not None, "the plan ends before the script"
        asked.append(dict(go.fields))
        written = written.after(go, go.between + text, tokens, finish_reason)
    return written, asked


def test_the_first_go_ends_with_the_budget_or_the_length_asked_for() -> None:
    for fields, budget, expected in [(FIELDS, 20, 20), (FIELDS, 500, 100), ({**FIELDS, "max_tokens": 7}, 20, 7)]:
        go = budget_plan({**fields, "thinking_budget": budget}, budget, THINK)(Written())
        assert go is not None and go.fields["max_tokens"] == expected and "thinking_budget" not in go.fields
    go = budget_plan({"messages": [], "max_completion_tokens": 7}, 20, THINK)(Written())
    assert go is not None and go.fields == {"messages": [], "max_tokens": 7}


def test_reasoning_that_spent_its_budget_is_closed_and_answered() -> None:
    written, asked = write(budget_plan(FIELDS, 20, THINK), ("<think>so", 20, "length"), ("It", 5, "stop"))
    assert asked[1]["max_tokens"] == 80 and asked[1]["continue_final_message"] is True
    assert asked[1]["messages"][-1] == {"role": "assistant", "content": "<think>so\n</think>\n\n"}
    assert written.text == "<think>so\n</think>\n\nIt" and budget_plan(FIELDS, 20, THINK)(written) is None
    assert written.usage(5) == {"prompt_tokens": 5, "completion_tokens": 25, "total_tokens": 30}


def test_reasoning_that_closed_in_time_goes_on_as_it_was() -> None:
    _, asked = write(budget_plan(FIELDS, 20, THINK), ("<think>so</think>It", 20, "length"), ("", 0, "stop"))
    assert asked[1]["messages"][-1]["content"] == "<think>so</think>It"


@pytest.mark.parametrize(("finish_reason", "used"), [("stop", 9), ("length", 100)])
def test_no_second_go_where_all_is_said_or_all_tokens_are_used(finish_reason: str, used: int) -> None:
    plan = budget_plan(FIELDS, 20, THINK)
    written, _ = write(plan, ("x", used, finish_reason))
    assert plan(written) is None


def test_an_answer_without_reasoning_is_not_closed() -> None:
    assert closing("4 is", THINK) == ""
    assert closing("hm", OPEN) == "\n</think>\n\n"


def test_the_helper_writes_the_step_at_which_the_student_doubts_and_no_other() -> None:
    plan = speculative_plan(FIELDS, HELP, THINK)
    written, asked = write(
        plan,
        ("<think>7 is odd.\n\nWait", 9, "stop"),
        (", it is prime.\n\n", 8, "stop"),
        ("So yes.</think>Yes", 6, "stop"),
    )
    assert [go["model"] for go in asked] == ["m", "large", "m"]
    assert [go["stop"] for go in asked] == [["\n\nWait"], ["\n\n"], ["\n\nWait"]]
    assert [go["max_tokens"] for go in asked] == [100, 20, 83]
    assert asked[1]["messages"][-1]["content"].endswith("odd.\n\nWait")
    assert plan(written) is None and written.text.endswith("Wait, it is prime.\n\nSo yes.</think>Yes")
    assert written.usage(1) == {"prompt_tokens": 1, "completion_tokens": 23, "total_tokens": 24, "helper_tokens": 8}


def test_a_student_that_never_doubts_is_asked_once() -> None:
    plan = speculative_plan(FIELDS, HELP, THINK)
    for end in [("<think>a</think>4", 9, "stop"), ("<think>a", 100, "length")]:
        written, _ = write(plan, end)
        assert plan(written) is None and "helper_tokens" not in written.usage(1)


def test_once_the_helper_has_spent_its_budget_the_student_goes_on_alone() -> None:
    plan = speculative_plan(FIELDS, HELP, THINK)
    doubt, step = ("a\n\nWait", 5, "stop"), ("b", 20, "length")
    _, asked = write(plan, doubt, step, doubt, ("c", 10, "length"), ("d", 1, "stop"))
    assert [go["model"] for go in asked] == ["m", "large", "m", "large", "m"]
    assert asked[3]["max_tokens"] == 10 and "stop" not in asked[4]


def test_no_doubt_counts_after_the_reasoning_or_after_many_goes() -> None:
    plan = speculative_plan({**FIELDS, "max_tokens": 10_000}, HELP, THINK)
    written = Written(
        text="<think>a</think>b\n\nWait", used_tokens=9, finish_reason="stop", num_goes=2, first="m", last="m"
    )
    go = plan(written)
    assert go is not None and go.fields["model"] == "m" and "stop" not in go.fields
    go = plan(written._replace(text="<think>\n\nWait", num_goes=MAX_GOES))
    assert go is not None and go.fields["model"] == "m" and "stop" not in go.fields


def test_all_goes_together_keep_to_the_tokens_asked_for() -> None:
    plan = speculative_plan({**FIELDS, "max_tokens": 12}, HELP, None)
    written, asked = write(plan, ("a\n\nWait", 5, "stop"), ("b", 7, "length"))
    assert asked[1]["max_tokens"] == 7 and plan(written) is None


@pytest.mark.parametrize("clash", [{"n": 2}, {"stop": "x"}, {"thinking_budget": 5}, {"logprobs": True}])
def test_what_cannot_be_written_in_several_goes_is_refused(clash: dict[str, Any]) -> None:
    body = FIELDS | {"speculative": {"model": "large"}} | clash
    with pytest.raises(Refusal, match="speculative: not together with"):
        check_request("/v1/chat/completions", json.dumps(body).encode(), Limits())
