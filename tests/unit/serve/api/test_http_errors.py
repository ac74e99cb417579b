"""Errors that reveal nothing of the server."""

import pytest

from serve.api.http_errors import scrub, upstream_error


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("weights in /root/.cache/models/x are bad", "weights in (path) are bad"),
        ("Message: too long, Internal exception: X, original exception: Y", "too long"),
        ("no. Traceback (most recent call last):\n  File", "no."),
        ("1/2 and 3/4 are fine", "1/2 and 3/4 are fine"),
        ("ray.exceptions.RayTaskError: bad", "bad"),
    ],
)
def test_an_error_reveals_nothing_of_the_server(message: str, expected: str) -> None:
    assert scrub(message) == expected


def test_an_internal_error_of_an_engine_is_not_described() -> None:
    error = upstream_error(500, "Traceback /root/secret")
    assert error.status == 500 and "secret" not in error.message
    assert upstream_error(400, "This model's maximum context length is 256 tokens").status == 400


def test_a_429_of_an_engine_carries_retry_after() -> None:
    error = upstream_error(429, "too many requests in /root/queue/x")
    assert (error.status, error.message) == (429, "too many requests in (path)")
    assert int(error.headers["retry-after"]) >= 1


@pytest.mark.parametrize("status", [408, 503, 504])
def test_a_busy_or_starting_engine_is_a_503_with_retry_after(status: int) -> None:
    error = upstream_error(status, "Request server side timeout")
    assert error.status == 503 and int(error.headers["retry-after"]) >= 1
