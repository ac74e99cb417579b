"""Refused requests, in the shape that OpenAI clients read, and without anything that belongs to the server."""

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

_PATH = re.compile(r"(?<![\w:/])~?(?:/[\w.@+-]+){2,}/?")
_TRACE = re.compile(r"Traceback \(most recent call last\).*", re.DOTALL)
_MODULE = re.compile(r"\b(?:ray|vllm)\.[\w.]+: ")


class Refusal(Exception):
    """A request that is not answered: an HTTP status of 4xx or 5xx and a sentence for the client. Picklable."""

    def __init__(self, status: int, message: str, *, code: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code
        """A word for programs, such as `model_not_found`."""
        self.retry_after_s = retry_after_s
        """Seconds after which another try makes sense; 0 says nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.status, self.message, self.code, self.retry_after_s)

    @property
    def body(self) -> dict[str, Any]:
        """What the client is sent."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, at least 1, where another try makes sense; how to authenticate, for 401."""
        found = {"retry-after": str(max(1, round(self.retry_after_s + 0.49)))} if self.retry_after_s else {}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})

    @property
    def event(self) -> str:
        """The same inside a stream that has begun, where the status is already sent."""
        return f"data: {json.dumps(self.body)}\n\n"


def _restore(status: int, message: str, code: str | None, retry_after_s: float) -> Refusal:
    return Refusal(status, message, code=code, retry_after_s=retry_after_s)


def upstream_refusal(status: int, message: str) -> Refusal:
    """What a client hears of an engine's error: its words for 4xx, scrubbed; only that it failed for 5xx."""
    if 400 <= status < 500:
        return Refusal(status, scrub(message))
    if status in (429, 503, 504):
        return Refusal(503, "the model is busy or starting", retry_after_s=5.0)
    return Refusal(502 if status == 502 else 500, "the model failed on this request")


def scrub(message: str) -> str:
    """The message without traces, module names and file paths, cut to `MAX_MESSAGE_CHARS`."""
    # Ray's ingress repeats an error three times in one message; the first is enough.
    text = message.split(", Internal exception:")[0].removeprefix("Message: ")
    text = _PATH.sub("(path)", _MODULE.sub("", _TRACE.sub("", text)))
    return text.strip()[:MAX_MESSAGE_CHARS] or "refused"
