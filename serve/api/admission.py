"""Admission control: ASGI middleware for authentication, request limits and concurrency. Knows nothing of Ray.

Every request that is not answered gets an error in OpenAI's shape that reveals nothing of the server. No CORS header is
ever sent, so a browser lets no other site read an answer; a site that resolves its own name to this machine (DNS
rebinding) is refused by the Host header.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from serve.api.http_errors import APIError
from serve.api.limits import ConcurrencyLimiter, Limits
from serve.api.request_schema import BODIES, check_request
from serve.keys import Key, find_key

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_AHEAD = "distill_body"
"""Name in a request's scope: its whole body, where the proxy sent it along. No client can set it."""

PUBLIC_PATHS = frozenset({"/", "/health"})
"""Answered without a key: they reveal nothing of models or requests."""

METHODS: Mapping[str, str] = {
    "/": "GET",
    "/health": "GET",
    "/v1/models": "GET",
    "/v1/problems": "GET",
    "/v1/verdict": "POST",
    **dict.fromkeys(BODIES, "POST"),
}
MODEL_PREFIX = "/v1/models/"
ALLOWED_MODELS = "allowed_models"
"""Name in the request's state: the models that its key may use; empty for all."""

NOT_OFFERED: Mapping[str, str] = {
    "/v1/chat/completions/batch": "send one request for each conversation, or use distill ask --file",
    "/v1/embeddings": "models here write text",
    "/tokenize": "return_token_ids in a request tells the token ids",
    "/detokenize": "return_token_ids in a request tells the token ids",
    "/tokenizer_info": "the tokenizer's files lie beside the model's weights",
    "/invocations": "use /v1/chat/completions or /v1/completions",
    "/load": "a model with as many requests as it takes answers 429",
    "/version": "see /v1/models",
}
"""Paths of other servers -> what to do here instead."""

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class AdmissionSettings(BaseModel):
    """What admission decides by."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    engines: dict[str, str]
    """Model name -> the engine that answers for it; adapters of one base share one."""

    max_per_engine: int
    """Most requests that one engine takes at the same time; further ones are refused with 429."""

    limits: Limits = Limits()

    keys: tuple[Key, ...] = ()
    """API keys. Empty: no authentication, which `deploy` allows on a loopback address only."""

    loopback_only: bool = True
    """Requests must name this machine as their Host."""


class Admitted(NamedTuple):
    """An admitted request, with its body read and checked."""

    body: bytes
    slots: tuple[str, ...]
    """What it takes a concurrency slot of: its engines, or its path; empty for requests that cost next to nothing."""
    key: Key | None


class AdmissionMiddleware:
    """ASGI middleware. One per ingress replica, so the counts are per replica."""

    def __init__(self, app: App, settings: AdmissionSettings) -> None:
        self._app = app
        self._settings = settings
        self._limiter = ConcurrencyLimiter(settings.max_per_engine)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer it with an error."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket
            await send({"type": "websocket.close", "code": 1008})
            return
        response = _Response(send)
        try:
            admitted = await self._admit(scope, receive)
        except APIError as error:
            await response.send_error(error)
            return
        try:
            await self._app(_inner_scope(scope, admitted, path_of(scope)), _replay(admitted.body, receive), response)
        except APIError as error:
            await response.send_error(error)
        finally:
            self._limiter.release(admitted.slots, admitted.key)

    async def _admit(self, scope: Scope, receive: Receive) -> Admitted:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = path_of(scope)
        check_route(scope["method"], path, headers, loopback_only=self._settings.loopback_only)
        key = self._key(path, headers)
        if scope["method"] == "GET":
            if path.startswith(MODEL_PREFIX):
                self._engine(path.removeprefix(MODEL_PREFIX), key)
            return Admitted(b"", (), key)
        _check_length(headers, self._settings.limits)
        ahead = scope.get(BODY_AHEAD)  # as long as the header says
        body = ahead if ahead is not None else await read_body(receive, self._settings.limits)
        if path not in BODIES:  # verdicts, which have slots of their own
            self._limiter.acquire((path,), key, time.monotonic())
            return Admitted(body, (path,), key)
        fields = check_request(path, body, self._settings.limits)
        partners = [(fields.get(name) or {}).get("model") for name in ("speculative", "share")]
        models = [fields["model"], *filter(None, partners)]
        engines = tuple(dict.fromkeys(self._engine(model, key) for model in models))
        self._limiter.acquire(engines, key, time.monotonic())
        return Admitted(json.dumps(fields).encode(), engines, key)

    def _key(self, path: str, headers: Mapping[str, str]) -> Key | None:
        if not self._settings.keys or path in PUBLIC_PATHS:
            return None
        key = find_key(self._settings.keys, headers.get("authorization", ""))
        if key is None:
            raise APIError(401, "no valid API key: send Authorization: Bearer KEY", code="invalid_api_key")
        return key

    def _engine(self, model: str, key: Key | None) -> str:
        if key is not None and key.models and model not in key.models:
            raise APIError(403, "this key may not use that model", code="model_not_allowed", param="model")
        if model not in self._settings.engines:
            raise APIError(404, "no model has that name: see /v1/models", code="model_not_found", param="model")
        return self._settings.engines[model]


def path_of(scope: Scope) -> str:
    """The path without slashes at its end: with one, the router would redirect a request that was admitted already."""
    return str(scope["path"]).rstrip("/") or "/"


def check_route(method: str, path: str, headers: Mapping[str, str], *, loopback_only: bool) -> None:
    """Check that the path and method exist, and that the request comes from a program, not from a foreign web page.

    Raises:
        APIError: 403, 404, 405 or 415.
    """
    host = headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if loopback_only and name.lower() not in LOOPBACK_HOSTS:
        raise APIError(403, "this address serves programs on this machine only: use localhost", code="unknown_host")
    expected = "GET" if path.startswith(MODEL_PREFIX) else METHODS.get(path)
    if expected is None:
        words = f"not offered: {NOT_OFFERED[path]}" if path in NOT_OFFERED else "unknown path"
        raise APIError(404, words, code="unknown_path")
    if method != expected:
        raise APIError(405, f"this path takes {expected}", code="method_not_allowed", allow=expected)
    # A foreign page may post plain text without a CORS preflight, but not JSON.
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and kind != "application/json":
        raise APIError(415, "send content-type: application/json", code="not_json")


def _check_length(headers: Mapping[str, str], limits: Limits) -> None:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise APIError(400, "content-length is not a number")
    if int(length) > limits.max_body_bytes:
        words = f"the body has {length} bytes; at most {limits.max_body_bytes} are allowed"
        raise APIError(413, words, code="body_too_large")


async def read_body(receive: Receive, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        APIError: 413 once it is too long, 408 when it does not arrive in time, 400 when the client disconnects early.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_deadline_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise APIError(400, "the body ended early")
                body += message.get("body", b"")
                if len(body) > limits.max_body_bytes:
                    words = f"the body is larger than the allowed {limits.max_body_bytes} bytes"
                    raise APIError(413, words, code="body_too_large")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError as error:
        raise APIError(408, f"the body did not arrive within {limits.body_deadline_s:g} s") from error


def _inner_scope(scope: Scope, admitted: Admitted, path: str) -> Scope:
    # The key goes no further, so that nothing behind this middleware can log or forward it.
    dropped = (b"authorization", b"content-length", b"transfer-encoding", b"cookie")
    kept = [(name, value) for name, value in scope["headers"] if name.lower() not in dropped]
    headers = [*kept, (b"content-length", str(len(admitted.body)).encode())]
    state = {**scope.get("state", {}), ALLOWED_MODELS: admitted.key.models if admitted.key else ()}
    return {**scope, "path": path, "raw_path": path.encode(), "state": state, "headers": headers}


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` that yields the body again, then whatever the client sends next (a disconnect)."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


class _Response:
    """`send` that records whether the response has started, and adds the security headers."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._has_started = True
            message = {**message, "headers": [*message.get("headers", []), *SECURITY_HEADERS]}
        await self._send(message)

    async def send_error(self, error: APIError) -> None:
        """Answer with an error, or end a stream that has started with an error event."""
        if self._has_started:
            await self._send({"type": "http.response.body", "body": error.event.encode()})
            return
        body = json.dumps(error.body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": error.status, "headers": encoded})
        await self._send({"type": "http.response.body", "body": body})
