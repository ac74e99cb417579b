"""Environment variables of Ray Serve's processes: faster calls between them, and our middleware in its HTTP proxy.

They must be set where Ray is started (`prepare_environment`). Without them everything works, but a token costs twice
the CPU on its way, and a header that is not UTF-8 gets a plain 500 from Ray. Replicas get `FAST_PROXY_ENV` in any case.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any

from starlette.middleware import Middleware

from cluster.session import is_joined
from serve.api.admission import BODY_AHEAD
from serve.api.http_errors import APIError
from serve.engines.ray_serve import PROXY_CALLBACK_VARIABLE

FAST_PROXY_ENV = {
    # No hop to another thread at either end of a call.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}

SERVE_ENV = {
    # A gRPC call instead of an actor task from the proxy to the ingress: the ingress is on the head node, and no
    # cluster outlives its head.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    **FAST_PROXY_ENV,
    PROXY_CALLBACK_VARIABLE: "serve.proxy_settings:build_middlewares",
}
"""Set where Ray is started: by `prepare_environment`, or by a Kubernetes manifest."""

SINGLE_NODE_ENV = {
    # gRPC between all of Serve's processes. A stream of eight tokens took 13 ms of CPU on its way with these, 27 ms
    # without any (2 cores, eight streams at a time). Not between nodes: Serve's channels notice after seven minutes
    # that the other node is gone, where an actor task ends when Ray gives its node up; and a shorter keepalive breaks
    # whole answers that take longer than three minutes ("too many pings", gRPC 1.85).
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    # Serve kills a proxy that is not ready within three times 5 s, and with it the start. On a machine with more work
    # than cores a proxy imports for longer.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}

SERVE_HEADERS = frozenset(
    {
        "serve_multiplexed_model_id",
        "x_session_id",
        "x_request_timeout_seconds",
        "x_request_disconnect_disabled",
        "x_request_id",
    }
)
"""Headers that Serve obeys. A client could pick replicas with them, disable time limits, or keep its request running
after it disconnected."""


AHEAD_BYTES = 64 << 10
"""Largest body, in bytes, that goes with its request from the proxy to the ingress."""

AHEAD_S = 0.02
"""Seconds that the proxy waits for such a body; one that is later is fetched by the ingress, which limits its time."""


def prepare_environment() -> None:
    """Set the variables for a Ray that this process starts or joins afterwards; those already set stay."""
    for name, value in (SERVE_ENV if is_joined() else SERVE_ENV | SINGLE_NODE_ENV).items():
        os.environ.setdefault(name, value)


def build_middlewares() -> list[Any]:
    """Called by Serve's proxy, which finds it by `PROXY_CALLBACK_VARIABLE`; the last one sees a request first."""
    return [Middleware(BodyAhead), Middleware(HeaderFilter)]


class HeaderFilter:
    """ASGI middleware of the proxy that checks and filters the headers of every request."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuse headers that are not ASCII; drop those that Serve obeys."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not all(name.isascii() and value.isascii() for name, value in scope["headers"]):
            await _send_error(send, APIError(400, "headers must be ASCII", code="invalid_header"))
            return
        await self._app({**scope, "headers": without_serve_headers(scope["headers"])}, receive, send)


class BodyAhead:
    """ASGI middleware of the proxy that sends a small body along with its request.

    Serve has the ingress ask the proxy for the body by a call to its actor, and by another one for what comes after:
    7 to 10 ms until the engine has a request, with four to eight streams at a time on 2 cores (Ray 2.60.0).
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Put the body into the request's scope where it is small and has arrived."""
        if not _is_small(scope):
            await self._app(scope, receive, send)
            return
        first = asyncio.ensure_future(receive())
        unread = [first]

        async def from_first() -> Any:
            return await (unread.pop() if unread else receive())

        try:
            await asyncio.wait([first], timeout=AHEAD_S)
            if first.done() and _is_whole(message := first.result()):
                await self._app({**scope, BODY_AHEAD: message.get("body", b"")}, receive, send)
            else:
                await self._app(scope, from_first, send)
        finally:
            first.cancel()


def _is_small(scope: Any) -> bool:
    headers = dict(scope.get("headers", ()))
    length = headers.get(b"content-length", b"")
    is_told = len(length) < 10 and length.isdigit() and b"transfer-encoding" not in headers
    return scope["type"] == "http" and is_told and 0 < int(length) <= AHEAD_BYTES


def _is_whole(message: Any) -> bool:
    return message["type"] == "http.request" and not message.get("more_body")


def without_serve_headers(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers without `SERVE_HEADERS`; Serve treats `-` and `_` as equal."""
    return [pair for pair in headers if pair[0].decode().lower().replace("-", "_") not in SERVE_HEADERS]


async def _send_error(send: Any, error: APIError) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error.body).encode()})
