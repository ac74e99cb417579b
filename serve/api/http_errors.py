"""HTTP errors in the shape that OpenAI clients read, without anything that belongs to the server."""

import json
import re
from typing import Any

MAX_MESSAGE_CHARS = 500

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}

BUSY_RETRY_AFTER_S = 5.0
"""Retry-After where an engine is busy, starting or lost."""

_PATH = re.compile(r"(?<![\w:/])~?(?:/[\w.@+-]+){2,}/?")
_TRACE = re.compile(r"Traceback \(most recent call last\).*", re.DOTALL)
_MODULE = re.compile(r"\b(?:ray|vllm)\.[\w.]+: ")


class APIError(Exception):
    """An HTTP status of 4xx or 5xx with a message for the client. Picklable."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float = 0.0,
        allow: str = "",
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code
        """Machine-readable reason, such as `model_not_found`."""
        self.param = param
        """The request's field that is wrong, such as `messages[0].role`."""
        self.allow = allow
        """The method that the path takes, for 405."""
        self.retry_after_s = retry_after_s
        """Seconds after which a retry makes sense; 0 sends no Retry-After."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.status, self.message, self.code, self.param, self.retry_after_s, self.allow)

    @property
    def body(self) -> dict[str, Any]:
        """The response body."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, at least 1, where a retry makes sense; the authentication scheme for 401; the
        method for 405."""
        found = {"retry-after": str(max(1, round(self.retry_after_s + 0.49)))} if self.retry_after_s else {}
        found |= {"allow": self.allow} if self.allow else {}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})

    @property
    def event(self) -> str:
        """The body as a server-sent event, for a stream whose status is already sent."""
        return f"data: {json.dumps(self.body)}\n\n"


def _restore(
    status: int, message: str, code: str | None, param: str | None, retry_after_s: float, allow: str
) -> APIError:
    return APIError(status, message, code=code, param=param, retry_after_s=retry_after_s, allow=allow)


def upstream_error(status: int, message: str, param: str | None = None) -> APIError:
    """The client's error for an error of an engine or of Ray: a scrubbed message for 4xx, no details for 5xx.

    408 is Ray's time limit for the first output: the client has sent everything, so it is the server that is busy.
    """
    if status in (408, 503, 504):
        return APIError(503, "the model is busy or starting", retry_after_s=BUSY_RETRY_AFTER_S)
    if status == 429:
        return APIError(429, scrub(message), code="overloaded", retry_after_s=BUSY_RETRY_AFTER_S)
    if 400 <= status < 500:
        return APIError(status, scrub(message), param=param)
    return APIError(502 if status == 502 else 500, "the model failed on this request")


def scrub(message: str) -> str:
    """The message without tracebacks, module names and file paths, cut to `MAX_MESSAGE_CHARS`."""
    # Ray's ingress repeats an error three times in one message; the first is enough.
    text = message.split(", Internal exception:")[0].removeprefix("Message: ")
    text = _PATH.sub("(path)", _MODULE.sub("", _TRACE.sub("", text)))
    return text.strip()[:MAX_MESSAGE_CHARS] or "the request was refused"
