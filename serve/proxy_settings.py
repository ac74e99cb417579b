"""What Ray Serve's processes take from their environment only: quicker ways between them, and our middleware in its
HTTP proxy, for headers that clients may not send.

Both must be set where Ray is started (`prepare_environment`). Without them everything works, but a token costs twice
the CPU on its way, and a header that is no UTF-8 meets a plain 500 of Ray's. Replicas get `QUICK_WAYS` in any case.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from cluster.session import is_joined
from serve.api.http_errors import Refusal

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"

QUICK_WAYS = {
    # No hop to another thread at either end of a call.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}

ENVIRONMENT = {
    # A call by gRPC instead of an actor task, from the proxy to the ingress: it is on the head, which no cluster
    # outlives.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    **QUICK_WAYS,
    CALLBACK_VARIABLE: "serve.proxy_settings:build_middlewares",
}
"""What is set where Ray is started: by `prepare_environment` here, by a manifest elsewhere."""

ONE_MACHINE = {
    # gRPC between all of Serve's processes. A stream of eight tokens took 13 ms of CPU on its way with these, 27 ms
    # without any (2 cores, eight streams at a time). Not between machines: Serve's channels notice after seven minutes
    # that the other one is gone, where an actor task ends when Ray gives its node up; and a shorter keepalive breaks
    # whole answers that take longer than three minutes ("too many pings", gRPC 1.85).
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
}

OWN_HEADERS = frozenset(
    {
        "serve_multiplexed_model_id",
        "x_session_id",
        "x_request_timeout_seconds",
        "x_request_disconnect_disabled",
        "x_request_id",
    }
)
"""Ours to set: with them a client would pick replicas, switch time limits off or keep a place after it left."""


def prepare_environment() -> None:
    """For a Ray that this process starts or joins afterwards; what is set already stays."""
    for name, value in (ENVIRONMENT if is_joined() else ENVIRONMENT | ONE_MACHINE).items():
        os.environ.setdefault(name, value)


def build_middlewares() -> list[Any]:
    """What the proxy calls."""
    from starlette.middleware import Middleware

    return [Middleware(CleanHeaders)]


class CleanHeaders:
    """ASGI middleware of the proxy."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuse headers that are no ASCII text; drop those that are Serve's own."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not all(name.isascii() and value.isascii() for name, value in scope["headers"]):
            await _refuse(send, Refusal(400, "headers must be ASCII", code="invalid_header"))
            return
        await self._app({**scope, "headers": without_own(scope["headers"])}, receive, send)


def without_own(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that are a client's to send; `-` and `_` are one to Serve."""
    return [pair for pair in headers if pair[0].decode().lower().replace("-", "_") not in OWN_HEADERS]


async def _refuse(send: Any, refusal: Refusal) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(refusal.body).encode()})
