"""The client of the standard library: what it reads of an answer, and how it tells of a failure."""

from collections.abc import Callable
from typing import Any

import pytest

from serve.client import served_models, stream_chat
from serve.errors import ServeError
from serve.http_client import RequestFailedError, error_message, get_json, post_events, post_json
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


def test_an_answer_that_is_no_json_is_told() -> None:
    with chat_server(always(200, b"<html>")) as server, pytest.raises(RequestFailedError, match="not JSON"):
        post_json(server.url, {}, "k", timeout_s=20)
