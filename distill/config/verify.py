"""The verifier, and the judge of the traces that it rejects."""

from pydantic import Field

from distill.config.base import Section


class JudgeConfig(Section):
    """A language model that looks at the traces the rules reject. Its verdict is kept beside theirs, never merged."""

    base_url: str = Field(pattern=r"^https?://[^\s@]+$")
    """OpenAI-compatible endpoint up to and with `/v1`; no credentials in it."""
    model: str = Field(min_length=1)
    """Name of the model there."""
    api_key_env: str = Field(default="", pattern=r"^[A-Za-z_0-9]*$")
    """Environment variable that holds the key. Empty: the endpoint needs none."""
    max_in_flight: int = Field(default=8, ge=1)
    """Requests open at once."""
    max_retries: int = Field(default=4, ge=0, le=20)
    """Further tries of one request after a dropped connection, a time-out or a 408, 409, 429 or 5xx answer."""
    timeout_s: float = Field(default=120.0, gt=0, le=3600)
    """Longest time of one try, seconds."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest reply, tokens; reasoning included."""
    max_unanswered: int = Field(default=16, ge=1)
    """Requests in a row that may fail before the rest is left without a judgement."""


class VerifyConfig(Section):
    """The verifier."""

    deadline_s: float = Field(default=2.0, gt=0, le=600)
    """Longest time for one answer, seconds; over it the verdict is ERROR."""
    memory_mb: int = Field(default=1024, ge=64)
    """Memory of one verifier process beyond its start, MiB."""
    num_workers: int = Field(default=1, ge=1)
    """Verifier processes per engine."""
    judge: JudgeConfig | None = None
    """Judge of the traces that the rules reject. Absent: none."""
