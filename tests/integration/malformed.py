"""Requests that are wrong in one way each, by construction: every one of them deserves a 4xx."""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
NO_NUMBER: list[Any] = ["hot", [], {}, [[1]], "1", True, {"a": None}, "\u0000", "９"]
NO_TEXT: list[Any] = [1, 0.5, True, {}, {"role": "user"}, -(10**30)]

WRONG_VALUES: dict[str, list[Any]] = {
    "model": [*NO_TEXT, "", "nope", "../../etc/passwd", "tiny@long:x", "x" * 300, None, "💥", "tiny@long\u0000"],
    "max_tokens": [*NO_NUMBER, 0, -1, 1501, 10**12, 0.5],
    "temperature": [*NO_NUMBER, -0.1, 2.1, 1e308],
    "top_p": [*NO_NUMBER, 0, 1.1, -1],
    "top_k": [*NO_NUMBER, -2, 0.5, 10**9],
    "n": [*NO_NUMBER, 0, -1, 17, 10**9, 1.5],
    "seed": [*NO_NUMBER, -1, 2**64, 0.5],
    "stop": [1, {}, [""], [1], ["x"] * 17, "y" * 201, ""],
    "stream": ["yes", 1, 0.0, [], {}],
    "stream_options": [1, "x", [], {"include_usage": "x"}, {"unknown": True}],
    "presence_penalty": [*NO_NUMBER, 3],
    "repetition_penalty": [*NO_NUMBER, 0, -1, 11],
    "stop_token_ids": [1, ["x"], [-1], [[]], list(range(65))],
    "thinking_budget": [*NO_NUMBER, 0, -5, 0.5],
    "logprobs": ["x", [], {}, 0.5],
    "top_logprobs": [*NO_NUMBER, -1, 21],
    "response_format": [1, "json", {"type": "json_schema"}, {}],
}
USER = {"role": "user", "content": "x"}
IMAGE = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
WRONG_CONTENTS: list[Any] = [None, 1, {}, [], [{}], [IMAGE], "9" * 4000]
WRONG_MESSAGES: list[Any] = [
    *([], {}, "x", None, 1, [1], [None], ["x"], [{}], [{"role": "user"}], [{"content": "x"}], [[USER]], [USER] * 1001),
    *([USER | {"role": "king"}], [USER | {"extra": 1}]),
    *([USER | {"content": content}] for content in WRONG_CONTENTS),
]
WRONG_PROMPTS: list[Any] = [None, 1, {}, [], [1], [[1, 2]], ["x"] * 17, "9" * 4000, [None]]
UNKNOWN_FIELDS = [
    "temprature",
    "tools",
    "chat_template",
    "structured_outputs",
    "logits_processors",
    "kv_transfer_params",
    "__class__",
    "",
]
BROKEN_TEXTS = [
    "",
    "{",
    "[",
    "null",
    "[]",
    "1",
    '"x"',
    "{'a': 1}",
    '{"model": NaN}',
    '{"a": 1e999}',
    '{"model": "\\ud800"}',
    "{}",
    "[" * 9000,
]
RAW = [
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost" + b"\x00" * 20 + b"\r\n\r\n",
    b"\xff" * 300,
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
]


def malformed_requests(random: Random, number: int, *, model: str, key: str) -> Iterator[dict[str, Any] | bytes]:
    """`number` wrong requests, as arguments of an httpx client or as bytes for a socket; the same for a seed."""
    kinds = [
        _wrong_field,
        _wrong_turns,
        _wrong_prompt,
        _unknown_field,
        _broken,
        _noise,
        _wrong_place,
        _no_key,
        _no_json,
        _headers,
        _raw,
    ]
    weights = [8, 3, 2, 2, 3, 3, 2, 2, 1, 1, 1]
    for _ in range(number):
        kind: Callable[[Random, str, str], dict[str, Any] | bytes] = random.choices(kinds, weights)[0]
        yield kind(random, model, key)


def _chat(model: str, **changes: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "1 + 1?"}], "max_tokens": 2} | changes


def _post(path: str, body: Any, key: str, **headers: str) -> dict[str, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    common = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    return {"method": "POST", "url": path, "content": content, "headers": common | headers}


def _wrong_field(random: Random, model: str, key: str) -> dict[str, Any]:
    name = random.choice(list(WRONG_VALUES))
    return _post(CHAT, _chat(model) | {name: random.choice(WRONG_VALUES[name])}, key)


def _wrong_turns(random: Random, model: str, key: str) -> dict[str, Any]:
    return _post(CHAT, _chat(model, messages=random.choice(WRONG_MESSAGES)), key)


def _wrong_prompt(random: Random, model: str, key: str) -> dict[str, Any]:
    return _post(TEXT, {"model": model, "prompt": random.choice(WRONG_PROMPTS), "max_tokens": 2}, key)


def _unknown_field(random: Random, model: str, key: str) -> dict[str, Any]:
    return _post(CHAT, _chat(model) | {random.choice(UNKNOWN_FIELDS): random.choice([1, "x", [], {}, None])}, key)


def _broken(random: Random, model: str, key: str) -> dict[str, Any]:
    text = json.dumps(_chat(model))
    cut = text[: random.randrange(1, len(text))]
    return _post(random.choice([CHAT, TEXT]), random.choice([*BROKEN_TEXTS, cut, cut, cut]).encode(), key)


def _noise(random: Random, model: str, key: str) -> dict[str, Any]:
    return _post(random.choice([CHAT, TEXT, "/v1/verdict"]), random.randbytes(random.randrange(1, 400)), key)


def _wrong_place(random: Random, model: str, key: str) -> dict[str, Any]:
    method = random.choice(["DELETE", "PUT", "PATCH", "OPTIONS", "GET", "POST"])
    paths = [
        "/v2",
        "/v1/embeddings",
        "/tokenize",
        "/v1/models/nope",
        "/v1/models/%2e%2e%2fx",
        "/%00",
        "/metrics",
        "/invocations",
    ]
    return {**_post(random.choice(paths), _chat(model), key), "method": method}


def _no_key(random: Random, model: str, key: str) -> dict[str, Any]:
    wrong = random.choice(
        ["", "Bearer", "bearer x", f"Basic {key}", key, f"Bearer {key}x", "Bearer \xe9", "Bearer " + "k" * 5000]
    )
    request = _post(CHAT, _chat(model), key)
    return {**request, "headers": {**request["headers"], "authorization": wrong.encode("latin-1")}}


def _no_json(random: Random, model: str, key: str) -> dict[str, Any]:
    kind = random.choice(
        ["text/plain", "", "multipart/form-data", "application/x-www-form-urlencoded", "application/jsonx"]
    )
    return _post(CHAT, _chat(model), key, **{"content-type": kind})


def _headers(random: Random, model: str, key: str) -> dict[str, Any]:
    """Headers that Ray's proxy would stumble over; the request is wrong besides, should they be dropped."""
    name = random.choice(
        ["x-request-id", "x-session-id", "serve-multiplexed-model-id", "x-request-timeout-seconds", "x-y"]
    )
    request = _post(CHAT, _chat("nope"), key)
    value = random.choice([b"\xff\xfe", b"a" * 9000, b"-1", b"?1", "\u00e9".encode()])
    return {**request, "headers": {**request["headers"], name: value}}


def _raw(random: Random, model: str, key: str) -> bytes:
    return random.choice(RAW)
