"""Calls of tools within a model's text, whole and streamed. Pure."""

import json

import pytest

from serve.api.tools import Call, CallSplitter, StreamCallSplitter, asks_in_this_form, parse_call, split_calls

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
CALL = Call("add", '{"a": 1, "b": "é"}')
TAGGED = '<tool_call>{"name": "say", "arguments": {"x": "a \\"</tool_call> b</tool_call>"}}</tool_call>'
SAID = Call("say", '{"x": "a \\"</tool_call> b</tool_call>"}')
UNCLOSED = '<tool_call>{"name": "say</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("7", "7", []),
        (ADD, "", [CALL]),
        (f"So:\n{ADD}\n{ADD}\n", "So:", [CALL, CALL]),
        (f"{ADD} and", "and", [CALL]),
        ("a <tool_call>7</tool_call>", "a <tool_call>7</tool_call>", []),
        ('<tool_call>{"name": "add", "argu', '<tool_call>{"name": "add", "argu', []),
        ("1 < 2 and <tool", "1 < 2 and <tool", []),
        (f"So: {TAGGED}\n{ADD}", "So:", [SAID, CALL]),
        (TAGGED[:-20], TAGGED[:-20], []),
        (UNCLOSED, UNCLOSED, []),
        (f"{UNCLOSED} or\n{ADD}", f"{UNCLOSED} or", [CALL]),
        (f'<tool_call>5" wide</tool_call>\n{ADD}', '<tool_call>5" wide</tool_call>', [CALL]),
    ],
)
def test_calls_are_taken_out_of_a_text(text: str, content: str, calls: list[Call]) -> None:
    assert split_calls(text) == (content, calls)
    splitter, streamed, found = CallSplitter(), "", []
    for letter in text:
        piece, called = splitter.feed(letter)
        streamed, found = streamed + piece, found + called
    assert found == calls and (streamed + splitter.finish()).strip() == content


def test_only_what_may_still_become_a_call_is_held_back() -> None:
    splitter = CallSplitter()
    assert splitter.feed(f"{TAGGED[:-30]}") == ("", [])
    assert splitter.feed(f"{TAGGED[-30:]} so") == (" so", [SAID])
    assert splitter.feed('<tool_call>5" wide</tool_call>') == ('<tool_call>5" wide</tool_call>', [])


def test_arguments_that_are_text_already_stay_so() -> None:
    assert parse_call('{"name": "f", "arguments": "{}"}') == Call("f", "{}")
    assert parse_call('{"name": "f"}') == Call("f", "{}")
    assert parse_call("[1]") is None and parse_call('{"arguments": {}}') is None


def test_a_stream_tells_whole_calls_and_that_it_ended_with_them() -> None:
    splitter = StreamCallSplitter(is_named=False)
    pieces = [*ADD, *ADD]
    events = [
        splitter.rewrite(
            {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": "stop" if last else None}]}
        )
        for last, piece in ((number == len(pieces) - 1, piece) for number, piece in enumerate(pieces))
    ]
    deltas = [event["choices"][0]["delta"] for event in events]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1] and len({call["id"] for call in calls}) == 2
    assert json.loads(calls[1]["function"]["arguments"]) == {"a": 1, "b": "é"}
    assert not "".join(delta["content"] for delta in deltas)
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_template_that_does_not_show_the_tools_is_noticed() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    assert asks_in_this_form('{"name": "add"} ... <tool_call>', tools)
    assert not asks_in_this_form("What is 3 + 4?", tools) and not asks_in_this_form("add: [add()]", tools)
