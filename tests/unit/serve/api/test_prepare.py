"""What the engine is asked for a client's request. Pure."""

from typing import Any

import pytest

from serve.api.http_errors import APIError
from serve.api.prepare import as_asked_of, prepared_chat, with_effort, with_stop_tokens
from serve.api.reasoning_parser import Delimiters
from serve.config import Endpoint

USER = {"role": "user", "content": "?"}
SYSTEM = {"role": "system", "content": "Answer."}
PARTS = {"role": "system", "content": [{"type": "text", "text": "You solve"}, {"type": "text", "text": " problems."}]}


def endpoint(**more: Any) -> Endpoint:
    modes: dict[str, Any] = {"modes": {"long": "Think.", "short": ""}}
    return Endpoint(name="m", source="s", metadata=modes, **more)


def test_a_modes_line_stands_below_the_system_text_whatever_form_it_has() -> None:
    turns = prepared_chat({"messages": [SYSTEM, USER], "mode": "long"}, endpoint())["messages"]
    assert turns[0]["content"] == "Answer.\nThink."
    turns = prepared_chat({"messages": [PARTS, USER], "mode": "long"}, endpoint())["messages"]
    assert [part["text"] for part in turns[0]["content"]] == ["You solve", " problems.\nThink."]
    assert prepared_chat({"messages": [USER], "mode": "short"}, endpoint())["messages"] == [USER]
    with pytest.raises(APIError, match="long, short"):
        prepared_chat({"messages": [USER], "mode": "medium"}, endpoint())


def test_options_of_the_request_come_before_those_of_the_mode_and_of_the_model() -> None:
    own = endpoint(template_options={"a": 1, "b": 1, "c": 1}, mode_options={"short": {"b": 2, "c": 2}})
    sent = {"messages": [USER], "mode": "short", "chat_template_kwargs": {"c": 3}}
    assert prepared_chat(sent, own)["chat_template_kwargs"] == {"a": 1, "b": 2, "c": 3}
    assert "chat_template_kwargs" not in prepared_chat({"messages": [USER]}, endpoint())


def test_a_system_turn_that_the_template_refuses_stands_above_the_question() -> None:
    asked = prepared_chat({"messages": [SYSTEM, USER], "mode": "long"}, endpoint(system_as="user"))
    assert asked["messages"] == [{"role": "user", "content": "Answer.\nThink.\n\n?"}]
    parts = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    asked = prepared_chat({"messages": [PARTS, parts]}, endpoint(system_as="user"))
    assert "".join(part["text"] for part in asked["messages"][0]["content"]) == "You solve problems.\n\n?"


def test_a_helper_gets_its_own_ends_and_options() -> None:
    sent = {"model": "helper", "stop_token_ids": [2], "chat_template_kwargs": {"a": 1}, "max_tokens": 4}
    asked = as_asked_of(sent, endpoint(stop_token_ids=(7,), template_options={"b": 2}))
    assert asked == {"model": "helper", "stop_token_ids": [7], "chat_template_kwargs": {"b": 2}, "max_tokens": 4}
    assert as_asked_of(sent, endpoint()) == {"model": "helper", "max_tokens": 4}


def test_a_turn_ends_where_the_model_was_taught_to_end_it() -> None:
    own = endpoint(stop_token_ids=(7,), keeps_special_tokens=True)
    assert with_stop_tokens({"stop_token_ids": [5, 7]}, own)["stop_token_ids"] == [5, 7]
    assert with_stop_tokens({}, own) == {"stop_token_ids": [7], "skip_special_tokens": False}
    assert "stop_token_ids" not in with_stop_tokens({"ignore_eos": True}, own), "the client wants to go on"
    assert with_stop_tokens({"n": 1}, endpoint()) == {"n": 1}


REASONS = Endpoint(name="m", source="m", reasoning=Delimiters())
MODES = Endpoint(name="m", source="m", metadata={"modes": {"long": "Think.", "short": "Be brief."}})
PLAIN = Endpoint(name="m", source="m")


@pytest.mark.parametrize(
    ("effort", "model", "expected"),
    [
        ("low", MODES, {"mode": "short"}),
        ("none", MODES, {"mode": "short"}),
        ("medium", MODES, {}),
        ("high", MODES, {"mode": "long"}),
        ("none", REASONS, {"think": False}),
        ("low", REASONS, {"thinking_budget": 1024}),
        ("high", REASONS, {}),
        ("low", PLAIN, {}),
        ("medium", PLAIN, {}),
    ],
)
def test_an_effort_becomes_what_the_model_has_for_it(effort: str, model: Endpoint, expected: dict[str, Any]) -> None:
    assert with_effort({"reasoning_effort": effort}, model) == expected


@pytest.mark.parametrize(
    ("fields", "model", "words"),
    [
        ({"reasoning_effort": "high"}, PLAIN, "does not reason"),
        ({"reasoning_effort": "low", "mode": "long"}, MODES, "cannot be combined with mode"),
        ({"reasoning_effort": "low", "think": False}, REASONS, "cannot be combined with think"),
        ({"reasoning_effort": "low", "n": 2}, REASONS, "becomes thinking_budget .* cannot be combined with n > 1"),
    ],
)
def test_an_effort_that_cannot_be_had_is_refused(fields: dict[str, Any], model: Endpoint, words: str) -> None:
    with pytest.raises(APIError, match=words) as refused:
        with_effort(fields, model)
    assert (refused.value.status, refused.value.param) == (400, "reasoning_effort")


def test_a_mode_in_the_completion_begins_it_and_none_leaves_the_choice() -> None:
    own = endpoint(mode_openings={"long": "Think.\n", "short": "Brief.\n"})
    asked = prepared_chat({"messages": [SYSTEM, USER], "mode": "long"}, own)
    assert asked["messages"] == [SYSTEM, USER] and asked["opening"] == "Think.\n"
    for mode in ({"mode": "auto"}, {}):
        free = prepared_chat({"messages": [SYSTEM, USER], **mode}, own)
        assert free["messages"] == [SYSTEM, USER] and "opening" not in free
    assert prepared_chat({"messages": [USER], "reasoning_effort": "low"}, own)["opening"] == "Brief.\n"
    for other in ({"thinking_budget": 8}, {"n": 2}, {"logprobs": True}):
        with pytest.raises(APIError, match="mode: long begins the completion of this model, which cannot be combined"):
            prepared_chat({"messages": [USER], "mode": "long", **other}, own)
