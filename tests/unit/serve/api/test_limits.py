"""The rate limit of a key."""

import pytest

from serve.api.http_errors import APIError
from serve.api.limits import ConcurrencyLimiter
from serve.keys import Key


def test_a_rate_limited_key_is_admitted_again_after_retry_after() -> None:
    limiter, key = ConcurrencyLimiter(100), Key(name="a", sha256="0" * 64, requests_per_minute=60)
    for _ in range(6):  # a tenth of a minute's worth may come at once
        limiter.acquire(["e"], key, 0.0)
    with pytest.raises(APIError) as refused:
        limiter.acquire(["e"], key, 0.0)
    assert refused.value.retry_after_s == pytest.approx(1.0)
    limiter.acquire(["e"], key, refused.value.retry_after_s)
    assert limiter.num_open == 7
