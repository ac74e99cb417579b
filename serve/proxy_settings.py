"""Environment variables of Ray Serve's processes: faster calls between them, and our middleware in its HTTP proxy.

They must be set where Ray is started (`prepare_environment`). Without them everything works, but a token costs twice
the CPU on its way, and a header that is not UTF-8 gets a plain 500 from Ray. Replicas get `FAST_PROXY_ENV` in any case.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from starlette.middleware import Middleware

from cluster.session import is_joined
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


def prepare_environment() -> None:
    """Set the variables for a Ray that this process starts or joins afterwards; those already set stay."""
    for name, value in (SERVE_ENV if is_joined() else SERVE_ENV | SINGLE_NODE_ENV).items():
        os.environ.setdefault(name, value)


def build_middlewares() -> list[Any]:
    """Called by Serve's proxy, which finds it by `PROXY_CALLBACK_VARIABLE`."""
    return [Middleware(HeaderFilter)]


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


def without_serve_headers(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers without `SERVE_HEADERS`; Serve treats `-` and `_` as equal."""
    return [pair for pair in headers if pair[0].decode().lower().replace("-", "_") not in SERVE_HEADERS]


async def _send_error(send: Any, error: APIError) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error.body).encode()})
