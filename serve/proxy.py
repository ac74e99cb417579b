"""Headers that clients may not send through Ray Serve's HTTP proxy, which acts on them before our door sees a request.

The proxy is Ray's; it takes middleware from the import path in `CALLBACK_VARIABLE` only, which must be set where Ray is
started. Without it everything works, but a header that is no UTF-8 meets a plain 500 of Ray's.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from serve.refusal import Refusal

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"

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


def use_clean_headers() -> None:
    """Have the proxies of a Ray that this process starts afterwards refuse and drop such headers."""
    os.environ.setdefault(CALLBACK_VARIABLE, "serve.proxy:build_middlewares")


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
