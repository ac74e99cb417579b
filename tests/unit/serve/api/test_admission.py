"""Admission control in front of a fake upstream: authentication, limits, concurrency, errors. No server and no Ray."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from serve.api.admission import ALLOWED_MODELS, BODY_AHEAD, AdmissionMiddleware, AdmissionSettings, read_body
from serve.api.http_errors import APIError
from serve.api.limits import Limits
from serve.keys import Key, hash_key
from serve.proxy_settings import AHEAD_BYTES, AHEAD_S, BodyAhead, HeaderFilter

SECRET = "sk-distill-alice"
MESSAGES = [{"role": "user", "content": "1 + 1?"}]
CHAT = {"model": "m", "messages": MESSAGES}
CHAT_PATH = "/v1/chat/completions"


class Upstream:
    """Answers with what it was sent; waits while `gate` is closed; raises `error`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.headers: dict[str, str] = {}
        self.state: dict[str, Any] = {}
        self.bodies: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.state = scope.get("state", {})
        self.bodies.append(json.loads(body) if body else None)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body or b"{}"})


def settings(**changes: Any) -> AdmissionSettings:
    return AdmissionSettings.model_validate(
        {"engines": {"m": "e", "m@mix": "e", "other": "f"}, "max_per_engine": 2} | changes
    )


def alice(**changes: Any) -> Key:
    return Key(name="alice", sha256=hash_key(SECRET), **changes)


def with_middleware(
    test: Callable[[httpx.AsyncClient, Upstream], Any],
    admission: AdmissionSettings | None = None,
    host: str = "localhost:8000",
) -> Any:
    async def run() -> Any:
        upstream = Upstream()
        transport = httpx.ASGITransport(
            app=AdmissionMiddleware(upstream, admission or settings()), raise_app_exceptions=False
        )
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await test(client, upstream)

    return asyncio.run(run())


def ask(
    admission: AdmissionSettings | None = None, *, method: str = "POST", path: str = CHAT_PATH, **request: Any
) -> Any:
    async def test(client: httpx.AsyncClient, upstream: Upstream) -> httpx.Response:
        return await client.request(method, path, **({"json": CHAT} | request if method == "POST" else request))

    return with_middleware(test, admission)


def bearer(key: str = SECRET) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def assert_refused(response: httpx.Response, status: int, words: str = "") -> None:
    error = response.json()["error"]
    assert response.status_code == status and set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]


def test_without_keys_programs_on_this_host_have_access() -> None:
    assert ask().json() == CHAT


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), {"authorization": SECRET}, {"authorization": f"Basic {SECRET}"}]
)
def test_with_keys_no_request_is_admitted_without_one(headers: dict[str, str]) -> None:
    response = ask(settings(keys=[alice()]), headers=headers)
    assert_refused(response, 401, "API key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert_refused(ask(settings(keys=[alice()]), method="GET", path="/v1/models", headers=headers), 401)


def test_a_key_gives_access_and_is_not_passed_on() -> None:
    async def test(client: httpx.AsyncClient, upstream: Upstream) -> None:
        assert (await client.post(CHAT_PATH, json=CHAT, headers=bearer())).status_code == 200
        assert "authorization" not in upstream.headers

    with_middleware(test, settings(keys=[alice()]))


def test_page_and_health_need_no_key() -> None:
    for path in ("/", "/health"):
        assert ask(settings(keys=[alice()]), method="GET", path=path).status_code == 200


def test_a_key_for_one_model_gives_no_access_to_another() -> None:
    admission = settings(keys=[alice(models=["m@mix"])])
    assert_refused(ask(admission, headers=bearer()), 403, "may not use")
    assert ask(admission, headers=bearer(), json=CHAT | {"model": "m@mix"}).status_code == 200
    assert_refused(ask(admission, method="GET", path="/v1/models/m", headers=bearer()), 403, "may not use")
    assert ask(admission, method="GET", path="/v1/models/m@mix", headers=bearer()).status_code == 200
    assert_refused(ask(method="GET", path="/v1/models/nope"), 404, "/v1/models")


def test_what_lists_the_models_knows_which_the_key_may_use() -> None:
    async def test(client: httpx.AsyncClient, upstream: Upstream) -> Any:
        await client.get("/v1/models", headers=bearer())
        return upstream.state[ALLOWED_MODELS]

    assert with_middleware(test, settings(keys=[alice(models=["m@mix"])])) == ("m@mix",)
    assert with_middleware(test, settings(keys=[alice()])) == with_middleware(test) == ()


def test_an_unknown_model_is_refused_with_the_list_of_models() -> None:
    assert_refused(ask(json=CHAT | {"model": "nope"}), 404, "/v1/models")


def test_a_foreign_page_cannot_ask_through_a_browser() -> None:
    async def rebound(client: httpx.AsyncClient, upstream: Upstream) -> httpx.Response:
        return await client.post(CHAT_PATH, json=CHAT)

    assert_refused(with_middleware(rebound, host="evil.example:8000"), 403, "this machine")
    assert with_middleware(rebound, settings(loopback_only=False), host="models.example").status_code == 200
    plain = {"content": json.dumps(CHAT), "headers": {"content-type": "text/plain"}, "json": None}
    assert_refused(ask(**plain), 415, "application/json")


def test_no_cors_header_is_ever_sent() -> None:
    response = ask(headers={"origin": "https://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]
    preflight = ask(method="OPTIONS", headers={"origin": "https://e", "access-control-request-method": "POST"})
    assert_refused(preflight, 405)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/v1", "/v1/embeddings", "/tokenize"])
def test_other_routes_do_not_exist(path: str) -> None:
    assert_refused(ask(method="GET", path=path), 404)


@pytest.mark.parametrize("path", ["/tokenize", "/tokenizer_info/", "/load", "/version", "/v1/chat/completions/batch"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_route_of_vllm_is_refused_with_what_to_do_instead(path: str, method: str) -> None:
    assert_refused(ask(method=method, path=path), 404, "not offered: ")


def test_a_large_body_is_refused_by_its_declared_and_by_its_received_length() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 4096

    admission = settings(limits=Limits(max_body_bytes=10_000))
    assert_refused(ask(admission, json=CHAT | {"user": "u" * 20_000}), 413, "at most 10000")
    chunked = {"content": endless(), "json": None, "headers": {"content-type": "application/json"}}
    assert_refused(ask(admission, **chunked), 413, "10000")


def test_a_body_that_does_not_arrive_times_out() -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    admission = settings(limits=Limits(body_deadline_s=0.05))
    response = ask(admission, content=stuck(), json=None, headers={"content-type": "application/json"})
    assert_refused(response, 408)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "the king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"temperature": 9}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0]"),
        ({"max_tokens": 101}, "at most 100 tokens"),
        ({"max_completion_tokens": 101}, "at most 100 tokens"),
        ({"n": 17}, "17 completions"),
        ({"n": True}, "n:"),
        ({"temprature": 0.5}, "temprature"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"thinking_budget": 5, "n": 2}, "thinking_budget"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], words: str) -> None:
    assert_refused(ask(settings(limits=Limits(max_output_tokens=100)), json=CHAT | change), 400, words)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"model": NaN}', b'{"model": "\\ud800"}', b"[" * 100_000, b"9" * 9999],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert_refused(ask(content=body, json=None, headers={"content-type": "application/json"}), 400, "JSON")


def test_a_long_prompt_is_refused() -> None:
    long = CHAT | {"messages": [{"role": "user", "content": "x" * 5000}]}
    assert_refused(ask(settings(limits=Limits(max_prompt_chars=4999)), json=long), 413, "5000 characters")


def test_a_request_without_max_tokens_gets_the_longest_allowed() -> None:
    assert ask(settings(limits=Limits(max_output_tokens=100))).json()["max_tokens"] == 100


def test_headers_that_steer_the_proxy_are_dropped_and_odd_ones_refused() -> None:
    async def test(client: httpx.AsyncClient, upstream: Upstream) -> None:
        headers = {
            "serve_multiplexed_model_id": "x",
            "X-Request-Timeout-Seconds": "0",
            "x-request-id": "mine",
            "x-y": "1",
        }
        assert (await client.post(CHAT_PATH, json=CHAT, headers=headers)).status_code == 200
        assert {name for name in upstream.headers if name.startswith(("x-", "serve"))} == {"x-y"}
        odd = await client.post(CHAT_PATH, json=CHAT, headers={"x-y": b"\xff"})
        assert_refused(odd, 400, "ASCII")

    async def run() -> None:
        upstream = Upstream()
        transport = httpx.ASGITransport(app=HeaderFilter(upstream))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await test(client, upstream)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("pieces", "is_ahead"),
    [
        ([b"{}"], True),
        ([b"{", b"}"], False),
        ([b"x" * (AHEAD_BYTES + 1)], False),
        ([None, b"{}"], False),
        ([b""], False),
    ],
    ids=["small", "in pieces", "large", "late", "empty"],
)
def test_a_small_body_goes_with_its_request_and_any_other_is_read_where_it_is_needed(
    pieces: list[bytes | None], is_ahead: bool
) -> None:
    """`None`: the next piece is late."""
    seen: dict[str, Any] = {}

    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        seen["ahead"] = scope.get(BODY_AHEAD)
        seen["read"] = [] if is_ahead else [await receive() for piece in pieces if piece is not None]
        seen["after"] = await receive()

    left = list(pieces)

    async def receive() -> Any:
        if left and left[0] is None:
            await asyncio.sleep(3 * AHEAD_S)
            left.pop(0)
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    length = str(sum(len(piece or b"") for piece in pieces)).encode()
    scope = {"type": "http", "method": "POST", "headers": [(b"content-length", length)]}
    asyncio.run(BodyAhead(upstream)(scope, receive, None))
    whole = b"".join(piece or b"" for piece in pieces)
    assert seen["ahead"] == (whole if is_ahead else None)
    assert b"".join(message["body"] for message in seen["read"]) == (b"" if is_ahead else whole)
    assert seen["after"] == {"type": "http.disconnect"}


def test_a_body_whose_length_is_not_its_headers_is_read_where_it_is_limited() -> None:
    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        assert BODY_AHEAD not in scope and await receive() == {"type": "http.request", "body": b"{}"}

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    headers = [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")]
    asyncio.run(BodyAhead(upstream)({"type": "http", "headers": headers}, receive, None))


def test_a_body_that_came_with_its_request_is_checked_like_any_other() -> None:
    async def test(client: httpx.AsyncClient, upstream: Upstream) -> None:
        assert (await client.post(CHAT_PATH, json=CHAT)).status_code == 200
        assert upstream.bodies[-1]["messages"] == CHAT["messages"]
        assert_refused(await client.post(CHAT_PATH, json=CHAT | {"n": 0}), 400)
        assert_refused(await client.post(CHAT_PATH, json=CHAT | {"user": "x" * 2000}), 413, "at most 1024")

    async def run() -> None:
        upstream = Upstream()
        door = AdmissionMiddleware(upstream, settings(limits=Limits(max_body_bytes=1024)))

        async def nothing() -> Any:
            raise AssertionError("the body is there")

        async def proxy(scope: Any, receive: Any, send: Any) -> None:
            await door({**scope, BODY_AHEAD: await read_body(receive, Limits())}, nothing, send)

        transport = httpx.ASGITransport(app=proxy)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await test(client, upstream)

    asyncio.run(run())


def test_prompts_of_a_completion_count_as_choices() -> None:
    body = {"model": "m", "prompt": ["a"] * 9, "n": 2}
    assert_refused(ask(path="/v1/completions", json=body), 400, "18 completions")


def test_above_capacity_a_request_is_refused_at_once_with_retry_after() -> None:
    async def test(client: httpx.AsyncClient, upstream: Upstream) -> None:
        upstream.gate.clear()
        held = [asyncio.create_task(client.post(CHAT_PATH, json=CHAT | {"model": name})) for name in ("m", "m@mix")]
        while len(upstream.bodies) < 2:
            await asyncio.sleep(0)
        refused = await asyncio.wait_for(client.post(CHAT_PATH, json=CHAT), 1)
        assert_refused(refused, 429, "limit of open requests")
        assert int(refused.headers["retry-after"]) >= 1
        elsewhere = asyncio.create_task(client.post(CHAT_PATH, json=CHAT | {"model": "other"}))
        while len(upstream.bodies) < 3:
            await asyncio.sleep(0)
        upstream.gate.set()
        assert [r.status_code for r in await asyncio.gather(*held, elsewhere)] == [200] * 3
        assert (await client.post(CHAT_PATH, json=CHAT)).status_code == 200, "slots are released"

    with_middleware(test)


def test_a_disconnected_client_or_a_failure_releases_its_slot() -> None:
    async def test(client: httpx.AsyncClient, upstream: Upstream) -> None:
        upstream.gate.clear()
        gone = asyncio.create_task(client.post(CHAT_PATH, json=CHAT))
        while not upstream.bodies:
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        upstream.gate.set()
        upstream.error = APIError(503, "busy", retry_after_s=2)
        for _ in range(3):
            response = await client.post(CHAT_PATH, json=CHAT)
            assert_refused(response, 503)
            assert response.headers["retry-after"] == "2"
        upstream.error = None
        assert (await client.post(CHAT_PATH, json=CHAT)).status_code == 200

    with_middleware(test, settings(max_per_engine=1))


def test_a_key_may_not_have_more_open_requests_than_its_share() -> None:
    async def test(client: httpx.AsyncClient, upstream: Upstream) -> None:
        upstream.gate.clear()
        held = asyncio.create_task(client.post(CHAT_PATH, json=CHAT, headers=bearer()))
        while not upstream.bodies:
            await asyncio.sleep(0)
        assert_refused(await client.post(CHAT_PATH, json=CHAT, headers=bearer()), 429, "1 open requests")
        upstream.gate.set()
        assert (await held).status_code == 200

    with_middleware(test, settings(keys=[alice(max_in_flight=1)]))


def test_a_refused_request_does_not_count_for_a_keys_rate() -> None:
    async def test(client: httpx.AsyncClient, upstream: Upstream) -> None:
        assert_refused(await client.post(CHAT_PATH, json=CHAT | {"n": 0}, headers=bearer()), 400)
        assert (await client.post(CHAT_PATH, json=CHAT, headers=bearer())).status_code == 200
        refused = await client.post(CHAT_PATH, json=CHAT, headers=bearer())
        assert_refused(refused, 429, "10 requests per minute")
        assert 5 <= int(refused.headers["retry-after"]) <= 7

    with_middleware(test, settings(keys=[alice(requests_per_minute=10)]))


def test_a_helper_passes_admission_like_the_model_itself_and_takes_a_slot_of_its_engine() -> None:
    async def test(client: httpx.AsyncClient, upstream: Upstream) -> None:
        helped = CHAT | {"speculative": {"model": "other"}}
        assert_refused(await client.post(CHAT_PATH, json=CHAT | {"speculative": {"model": "nope"}}), 404)
        upstream.gate.clear()
        waiting = [asyncio.create_task(client.post(CHAT_PATH, json=helped)) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert_refused(await client.post(CHAT_PATH, json=CHAT | {"model": "other"}), 429)
        upstream.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
        assert (await client.post(CHAT_PATH, json=CHAT | {"model": "other"})).status_code == 200

    with_middleware(test)
    admission = settings(keys=(alice(models=("m",)),))
    assert_refused(ask(admission, json=CHAT | {"speculative": {"model": "other"}}, headers=bearer()), 403)
