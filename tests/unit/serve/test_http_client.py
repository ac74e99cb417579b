"""The client of the standard library: what it reads of an answer, and how it tells of a failure."""

from collections.abc import Callable
from typing import Any

import pytest

from serve.client import model_card, served_models, stream_chat, warm_up
from serve.errors import ServeError
from serve.http_client import RequestFailedError, endpoint_address, error_message, get_json, post_events, post_json
from tests.fixtures.chat_server import Reply, chat_server, completion

QUESTION = [{"role": "user", "content": "2 + 2"}]


def always(status: int, body: dict[str, Any] | bytes) -> Callable[[int, dict[str, Any]], Reply]:
    return lambda number, sent: (status, body)


def test_a_posted_body_and_the_key_arrive_and_the_answer_is_read() -> None:
    with chat_server(always(200, completion("4"))) as server:
        found = post_json(f"{server.url}/chat/completions", {"top_k": 3}, "k", timeout_s=20)
    assert found["choices"][0]["message"]["content"] == "4"
    assert server.requests == [{"top_k": 3}] and server.keys == ["Bearer k"]


def test_events_end_at_done_and_comments_are_no_events() -> None:
    stream = b'data: {"a": 1}\n\n: still alive\n\ndata:{"a": 2}\n\ndata: [DONE]\n\ndata: {"a": 3}\n\n'
    with chat_server(always(200, stream)) as server:
        assert list(post_events(server.url, {}, "k", timeout_s=20)) == [{"a": 1}, {"a": 2}]


def test_an_error_inside_a_stream_is_told_after_what_came_before() -> None:
    stream = b'data: {"choices": [{"delta": {"content": "4"}}]}\n\ndata: {"error": {"message": "the engine died"}}\n\n'
    pieces = []
    with chat_server(always(200, stream)) as server, pytest.raises(ServeError, match=r"m at .*: the engine died"):
        for piece in stream_chat(server.url.removesuffix("/v1"), "m", QUESTION):
            pieces.append(piece.text)  # those before the error
    assert pieces == ["4"]


def test_a_refusal_has_its_status_and_the_endpoints_own_words() -> None:
    refusal = {"error": {"message": "top_k: must be positive", "code": "invalid_field"}}
    with chat_server(always(422, refusal)) as server, pytest.raises(RequestFailedError) as told:
        post_json(server.url, {}, "k", timeout_s=20)
    assert (told.value.status, told.value.message) == (422, "top_k: must be positive")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"message": "no"}', "no"),
        (b'{"detail": "no"}', '{"detail": "no"}'),
        (b"<html>Bad gateway</html>", "<html>Bad gateway</html>"),
        (b"[1]", "[1]"),
        (b"", ""),
    ],
)
def test_the_message_of_an_error_is_found_in_any_spelling(body: bytes, expected: str) -> None:
    assert error_message(body) == expected


def test_where_nothing_answers_there_are_no_models_and_no_status() -> None:
    assert served_models("http://127.0.0.1:9") == {}
    with pytest.raises(RequestFailedError) as told:
        get_json("http://127.0.0.1:9/v1/models", "k", timeout_s=5)
    assert told.value.status == 0 and told.value.message


@pytest.mark.parametrize(
    "given",
    [
        "http://h:1",
        "http://h:1/",
        "http://h:1/v1",
        "http://h:1/v1/",
        "h:1",
        "h:1/v1",
        " http://h:1/v1/chat/completions ",
        "http://h:1//v1//models",
    ],
)
def test_an_address_is_taken_however_it_was_copied(given: str) -> None:
    assert endpoint_address(given) == "http://h:1"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://h/api/v1", "https://h/api"),
        ("https://h/v1beta", "https://h/v1beta"),
        ("[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_path_before_the_apis_own_stays(given: str, expected: str) -> None:
    assert endpoint_address(given) == expected


@pytest.mark.parametrize(
    ("status", "body", "key", "expected"),
    [
        (401, {"error": {"message": "no key"}}, "none", "asks for an API key: set DISTILL_API_KEY"),
        (401, {"error": {"message": "no key"}}, "wrong", "does not know the API key in DISTILL_API_KEY"),
        (403, {"error": {"message": "the Host is another"}}, "none", "lists no models .403: the Host is another"),
        (404, b"<html>Not here</html>", "none", "lists no models .404: <html>Not here"),
        (200, {"models": []}, "none", "is no list of models"),
        (200, b"hello", "none", "not JSON"),
    ],
)
def test_why_an_endpoint_cannot_be_asked_is_told(status: int, body: Any, key: str, expected: str) -> None:
    nothing = always(500, b"")
    with chat_server(nothing, models=(status, body)) as server, pytest.raises(ServeError, match=expected):
        model_card(endpoint_address(server.url), "m", key)


def test_a_model_of_an_engine_that_is_busy_warms_up_when_it_is_its_turn() -> None:
    def answer(number: int, sent: dict[str, Any]) -> Reply:
        return (429, {"error": {"message": "the model is at its limit"}}) if number < 3 else (200, completion("1"))

    with chat_server(answer) as server:
        warm_up(endpoint_address(server.url), ["m"])
        assert len(server.requests) == 3


def test_an_answer_that_is_no_json_is_told() -> None:
    with chat_server(always(200, b"<html>")) as server, pytest.raises(RequestFailedError, match="not JSON"):
        post_json(server.url, {}, "k", timeout_s=20)
