"""Reasoning apart from the answer, whole and streamed, and the two goes of a thinking budget. Pure."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.reasoning import (
    Delimiters,
    Split,
    Splitter,
    StreamSplitter,
    add_usage,
    closing,
    first_go,
    format_event,
    parse_events,
    second_go,
    split,
)

THINK = Delimiters()
OPEN = Delimiters(is_open=True)


@pytest.mark.parametrize(
    ("text", "delimiters", "expected"),
    [
        ("<think>\n2 and 2\n</think>\n\n4", THINK, Split("2 and 2\n", "4")),
        ("\n<think>a</think>b", THINK, Split("a", "b")),
        ("just 4", THINK, Split("", "just 4")),
        ("<think>never done", THINK, Split("never done", "")),
        ("<thin", THINK, Split("", "<thin")),
        ("a</think>b</think>c", OPEN, Split("a", "b</think>c")),
        ("<think>a</think>b", OPEN, Split("a", "b")),
        ("a < b</thin", OPEN, Split("a < b</thin", "")),
        ("", THINK, Split("", "")),
        ("a</think>b", THINK, Split("", "a</think>b")),
    ],
)
def test_a_completion_is_split_at_its_delimiters(text: str, delimiters: Delimiters, expected: Split) -> None:
    assert split(text, delimiters) == expected


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "/", "think", ">", "\n", "a", "4 "]), max_size=12), st.data()
)
def test_pieces_give_what_the_whole_gives_however_it_is_cut(words: list[str], data: st.DataObject) -> None:
    text = "".join(words)
    delimiters = data.draw(st.sampled_from([THINK, OPEN]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    splitter = Splitter(delimiters)
    parts = [splitter.feed(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    parts.append(splitter.finish())
    together = Split("".join(p.reasoning for p in parts), "".join(p.content for p in parts))
    assert together == split(text, delimiters)


def chunk(text: str, index: int = 0, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}


def test_the_choices_of_a_stream_are_split_apart_from_each_other() -> None:
    splitter = StreamSplitter(THINK)
    events = [chunk("<think>a"), chunk("b", 1), chunk("</thi"), chunk("nk>c", finish="stop"), chunk("", 1, "stop")]
    found: dict[int, Split] = {0: Split(), 1: Split()}
    for event in events:
        (choice,) = splitter.rewrite(event)["choices"]
        delta, before = choice["delta"], found[choice["index"]]
        found[choice["index"]] = Split(
            before.reasoning + delta.get("reasoning_content", ""), before.content + delta["content"]
        )
    assert found == {0: Split("a", "c"), 1: Split("", "b")}


def test_events_survive_the_wire() -> None:
    events = [chunk("a\n\nb"), chunk("é")]
    assert parse_events("".join(map(format_event, events)) + "data: [DONE]\n\n") == events


FIELDS = {"model": "m", "messages": [{"role": "user", "content": "?"}], "max_tokens": 100, "thinking_budget": 20}


def test_the_first_go_ends_with_the_budget_or_the_length_asked_for() -> None:
    assert first_go(FIELDS, 20)["max_tokens"] == 20
    assert first_go(FIELDS, 500)["max_tokens"] == 100
    assert first_go({"messages": [], "max_completion_tokens": 7}, 20) == {"messages": [], "max_tokens": 7}
    assert "thinking_budget" not in first_go(FIELDS, 20)


def test_reasoning_that_spent_its_budget_is_closed_and_answered() -> None:
    go = second_go(FIELDS, "<think>so", used_tokens=20, finish_reason="length", delimiters=THINK)
    assert go is not None and go["max_tokens"] == 80 and go["continue_final_message"] is True
    assert go["messages"][-1] == {"role": "assistant", "content": "<think>so\n</think>\n\n"}


def test_reasoning_that_closed_in_time_goes_on_as_it_was() -> None:
    go = second_go(FIELDS, "<think>so</think>It", used_tokens=20, finish_reason="length", delimiters=THINK)
    assert go is not None and go["messages"][-1]["content"] == "<think>so</think>It"


@pytest.mark.parametrize(("finish_reason", "used"), [("stop", 9), ("length", 100)])
def test_no_second_go_where_all_is_said_or_all_tokens_are_used(finish_reason: str, used: int) -> None:
    assert second_go(FIELDS, "x", used_tokens=used, finish_reason=finish_reason, delimiters=THINK) is None


def test_an_answer_without_reasoning_is_not_closed() -> None:
    assert closing("4 is", THINK) == ""
    assert closing("hm", OPEN) == "\n</think>\n\n"


def test_tokens_of_both_goes_are_counted_once() -> None:
    first, second = {"prompt_tokens": 5, "completion_tokens": 20}, {"prompt_tokens": 27, "completion_tokens": 3}
    assert add_usage(first, second) == {"prompt_tokens": 5, "completion_tokens": 23, "total_tokens": 28}
