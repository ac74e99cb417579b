"""What one client and all clients together may ask for, and who is let in next. Pure: the time is an argument."""

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from serve.api.http_errors import Refusal
from serve.keys import Key


class Limits(BaseModel):
    """Bounds of every request. The defaults suit models of a few billion weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: int = Field(4 << 20, ge=1024)
    """Largest request body; a larger one is refused (413) before it is read."""

    max_prompt_chars: int = Field(1_000_000, ge=1)
    """Characters of all messages, or of all prompts, of a request (413)."""

    max_output_tokens: int | None = Field(None, ge=1)
    """Tokens that a request may ask for (422), and gets if it says nothing; none leaves it to the context length."""

    max_choices: int = Field(16, ge=1)
    """Completions of one request: prompts times `n` (422)."""

    body_deadline_s: float = Field(30.0, gt=0)
    """Seconds in which a request's body must have arrived (408)."""

    max_retries: int = Field(5, ge=0)
    """Further tries of a request whose replica died before anything was sent; waits double from 0.5 s to 8 s."""


class Turnstile:
    """Counts open requests per engine and per key, and paces keys. Refuses at once: nobody queues before it."""

    def __init__(self, max_per_engine: int) -> None:
        self._max_per_engine = max_per_engine
        self._open: Counter[str] = Counter()
        self._open_keys: Counter[str] = Counter()
        self._tokens: dict[str, tuple[float, float]] = {}

    @property
    def num_open(self) -> int:
        """Requests that are being answered."""
        return self._open.total()

    def enter(self, engines: Sequence[str], key: Key | None, now: float) -> None:
        """Let a request in, which takes a place of each engine; `leave` must follow. `now`: seconds of a steady clock.

        Raises:
            Refusal: 429, with when to come again.
        """
        if any(self._open[engine] >= self._max_per_engine for engine in engines):
            raise Refusal(429, "the model has as many requests as it takes", code="overloaded", retry_after_s=1.0)
        if key is not None:
            if key.max_in_flight is not None and self._open_keys[key.name] >= key.max_in_flight:
                raise Refusal(
                    429,
                    f"this key may have {key.max_in_flight} requests open at once",
                    code="too_many_open_requests",
                    retry_after_s=1.0,
                )
            self._pace(key, now)
            self._open_keys[key.name] += 1
        self._open.update(engines)

    def leave(self, engines: Sequence[str], key: Key | None) -> None:
        """The request is answered, failed or abandoned."""
        self._open.subtract(engines)
        if key is not None and engines:
            self._open_keys[key.name] -= 1

    def _pace(self, key: Key, now: float) -> None:
        if key.requests_per_minute is None:
            return
        per_second, burst = key.requests_per_minute / 60, max(1.0, key.requests_per_minute / 10)
        tokens, since = self._tokens.get(key.name, (burst, now))
        tokens = min(burst, tokens + (now - since) * per_second)
        if tokens < 1:
            self._tokens[key.name] = (tokens, now)
            raise Refusal(
                429,
                f"this key may send {key.requests_per_minute} requests per minute",
                code="rate_limit_exceeded",
                retry_after_s=(1 - tokens) / per_second,
            )
        self._tokens[key.name] = (tokens - 1, now)
