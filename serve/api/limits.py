"""Where a 429 is decided: bounds of one request, concurrency per engine, rate per API key.

Pure: the time is an argument.
"""

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from serve.api.http_errors import APIError
from serve.keys import Key


class Limits(BaseModel):
    """Bounds of every request. The defaults suit models of a few billion weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    max_body_bytes: int = Field(default=4 << 20, ge=1024)
    """Largest request body; a larger one is refused (413) before it is read."""

    max_prompt_chars: int = Field(default=1_000_000, ge=1)
    """Most characters of all messages, or of all prompts, of a request (413)."""

    max_output_tokens: int | None = Field(default=None, ge=1)
    """Most tokens that a request may ask for (400), and the default of one that names none. Absent: no bound."""

    max_choices: int = Field(default=16, ge=1)
    """Most completions of one request: prompts times `n` (400)."""

    body_deadline_s: float = Field(default=30.0, gt=0)
    """Seconds within which a request's body must have arrived (408)."""

    max_retries: int = Field(default=5, ge=0)
    """Retries of a request whose replica died before anything was sent; delays double from 0.5 s to 8 s."""


class ConcurrencyLimiter:
    """Counts open requests per engine and per key, and limits the rate of each key. Refuses at once; nothing queues."""

    def __init__(self, max_per_engine: int) -> None:
        self._max_per_engine = max_per_engine
        self._open: Counter[str] = Counter()
        self._open_keys: Counter[str] = Counter()
        self._tokens: dict[str, tuple[float, float]] = {}

    @property
    def num_open(self) -> int:
        """Slots in use over all engines."""
        return self._open.total()

    def acquire(self, engines: Sequence[str], key: Key | None, now: float) -> None:
        """Take a slot of each engine for one request; `release` must follow. `now`: seconds of a monotonic clock.

        Raises:
            APIError: 429 with Retry-After.
        """
        if any(self._open[engine] >= self._max_per_engine for engine in engines):
            raise APIError(429, "the model is at its limit of open requests", code="overloaded", retry_after_s=1.0)
        if key is not None:
            if key.max_in_flight is not None and self._open_keys[key.name] >= key.max_in_flight:
                raise APIError(
                    429,
                    f"this key may have at most {key.max_in_flight} open requests",
                    code="too_many_open_requests",
                    retry_after_s=1.0,
                )
            self._limit_rate(key, now)
            self._open_keys[key.name] += 1
        self._open.update(engines)

    def release(self, engines: Sequence[str], key: Key | None) -> None:
        """Give the slots back: the request was answered, failed or abandoned."""
        self._open.subtract(engines)
        if key is not None and engines:
            self._open_keys[key.name] -= 1

    def _limit_rate(self, key: Key, now: float) -> None:
        """A token bucket per key."""
        if key.requests_per_minute is None:
            return
        per_second, burst = key.requests_per_minute / 60, max(1.0, key.requests_per_minute / 10)
        tokens, since = self._tokens.get(key.name, (burst, now))
        tokens = min(burst, tokens + (now - since) * per_second)
        if tokens < 1:
            self._tokens[key.name] = (tokens, now)
            raise APIError(
                429,
                f"this key may send at most {key.requests_per_minute} requests per minute",
                code="rate_limit_exceeded",
                retry_after_s=(1 - tokens) / per_second,
            )
        self._tokens[key.name] = (tokens - 1, now)
