"""OpenAI's responses as chats, and chats' answers as responses. Read back by OpenAI's own client. Pure."""

import json
from typing import Any

import pytest
from openai.types.responses import Response

from serve.api.http_errors import APIError
from serve.api.limits import Limits
from serve.api.reasoning_parser import format_event, parse_events
from serve.api.request_schema import RESPONSES, check_request
from serve.api.responses import ResponseBuilder

USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 5,
    "total_tokens": 8,
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def checked(**fields: Any) -> dict[str, Any]:
    return check_request(RESPONSES, json.dumps({"model": "m", "input": "?", **fields}).encode(), Limits())


def test_a_request_becomes_one_of_a_chat() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "1 + "}, {"type": "input_text", "text": "1?"}]},
        {"type": "reasoning", "summary": [], "content": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "2", "annotations": []}]},
        {"role": "user", "content": "Sure?"},
    ]
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    asked = checked(
        input=items,
        instructions="Add.",
        max_output_tokens=9,
        reasoning={"effort": "low"},
        text={"format": schema},
        stream=True,
        store=False,
        metadata={"a": "b"},
        truncation="disabled",
    )
    assert [(turn["role"], turn["content"]) for turn in asked["messages"]] == [
        ("system", "Add."),
        ("user", "1 + 1?"),
        ("assistant", "2"),
        ("user", "Sure?"),
    ]
    assert (asked["max_completion_tokens"], asked["reasoning_effort"]) == (9, "low")
    assert asked["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert asked["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
        ({"input": ""}, "input"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": 9}, "temperature"),
        ({"top_k": "all"}, "top_k"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_what_is_not_offered_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(APIError) as refused:
        checked(**fields)
    assert refused.value.status == 400 and str(refused.value.param).startswith(param)


def test_sampling_and_log_probabilities_are_asked_of_the_chat() -> None:
    asked = checked(include=["message.output_text.logprobs"], top_logprobs=2, top_k=4, seed=7, stop=["."])
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)
    assert (asked["top_k"], asked["seed"], asked["stop"]) == (4, 7, ["."])
    assert "logprobs" not in checked(include=[], top_logprobs=0)


def entry(token: str) -> dict[str, Any]:
    other = {"token": "x", "logprob": -2.0, "bytes": [120]}
    return {"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": [other]}


def test_log_probabilities_stand_beside_their_text() -> None:
    logprobs = {"content": [entry("4"), entry("2")]}
    choice = {"message": {"content": "42"}, "finish_reason": "stop", "logprobs": logprobs}
    whole = Response.model_validate(ResponseBuilder("m").whole({"choices": [choice], "usage": USAGE}))
    builder = ResponseBuilder("m")
    pieces = [("4", [entry("4")]), ("2", [entry("2")])]
    events = [
        {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": {"content": found}, "finish_reason": None}]}
        for text, found in pieces
    ]
    texts = [*builder.begin(), *(text for event in events for text in builder.events(event)), *builder.end()]
    told = [json.loads(text.partition("data: ")[2]) for text in texts]
    deltas = [event for event in told if event["type"] == "response.output_text.delta"]
    assert [[one["token"] for one in event["logprobs"]] for event in deltas] == [["4"], ["2"]]
    streamed = Response.model_validate(told[-1]["response"])
    for response in (whole, streamed):
        (part,) = response.output[0].content
        assert [one.token for one in part.logprobs] == ["4", "2"]


def test_a_whole_answer_is_a_response() -> None:
    message = {"role": "assistant", "content": "2", "reasoning_content": "1 and 1"}
    answer = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE}
    response = Response.model_validate(ResponseBuilder("m").whole(answer))
    assert (response.output_text, response.status) == ("2", "completed")
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.usage is not None and response.usage.output_tokens_details.reasoning_tokens == 2


def test_a_cut_answer_is_incomplete() -> None:
    answer = {"choices": [{"message": {"content": "2"}, "finish_reason": "length"}], "usage": USAGE}
    response = Response.model_validate(ResponseBuilder("m").whole(answer))
    assert response.status == "incomplete" and response.incomplete_details is not None


@pytest.mark.parametrize(
    ("message", "items"),
    [
        ({"reasoning_content": "so"}, [("reasoning", "incomplete")]),
        ({"reasoning_content": "so", "content": "4"}, [("reasoning", "completed"), ("message", "incomplete")]),
        ({"content": "4"}, [("message", "incomplete")]),
        ({}, [("message", "incomplete")]),
    ],
)
def test_an_answer_that_was_cut_has_the_same_items_whole_and_streamed(
    message: dict[str, str], items: list[tuple[str, str]]
) -> None:
    answer = {"choices": [{"message": {"content": "", **message}, "finish_reason": "length"}], "usage": USAGE}
    whole = Response.model_validate(ResponseBuilder("m").whole(answer))
    builder = ResponseBuilder("m")
    deltas = [{"role": "assistant", "content": ""}, *({kind: text} for kind, text in message.items())]
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}, {"choices": [], "usage": USAGE}]
    texts = [*builder.begin(), *(text for event in events for text in builder.events(event)), *builder.end()]
    told = [json.loads(text.partition("data: ")[2]) for text in texts]
    assert told[-1]["type"] == "response.incomplete"
    streamed = Response.model_validate(told[-1]["response"])
    for response in (whole, streamed):
        assert [(item.type, item.status) for item in response.output] == items
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert [(item["type"], item["status"]) for item in done] == items


def test_reasoning_without_an_answer_has_no_empty_message_beside_it() -> None:
    message = {"content": "", "reasoning_content": "so"}
    answer = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE}
    response = Response.model_validate(ResponseBuilder("m").whole(answer))
    assert [(item.type, item.status) for item in response.output] == [("reasoning", "completed")]


def test_a_stream_opens_and_closes_every_item_in_order() -> None:
    builder = ResponseBuilder("m")
    deltas = [{"role": "assistant", "content": ""}, {"reasoning_content": "a"}, {"reasoning_content": "b"}]
    deltas += [{"content": "4"}, {"content": "2"}]
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": USAGE}]
    texts = [*builder.begin(), *(text for event in events for text in builder.events(event)), *builder.end()]
    told = [json.loads(text.partition("data: ")[2]) for text in texts]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    kinds = [event["type"].removeprefix("response.") for event in told]
    item = ["output_item.added", "content_part.added"], ["content_part.done", "output_item.done"]
    assert kinds == [
        *("created", "in_progress"),
        *(*item[0], "reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done", *item[1]),
        *(*item[0], "output_text.delta", "output_text.delta", "output_text.done", *item[1]),
        "completed",
    ]
    assert Response.model_validate(told[-1]["response"]).output_text == "42"
    assert parse_events(format_event(told[-1]))[0]["response"]["usage"]["total_tokens"] == 8
