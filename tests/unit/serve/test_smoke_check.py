"""How much two answers to the same question agree."""

import pytest

from serve.api.limits import Limits
from serve.errors import ServeError
from serve.smoke_check import SmokeCheck, agreement, is_same, run_smoke_checks, within
from tests.fixtures.chat_server import chat_server

CHECK = SmokeCheck("m", [{"role": "user", "content": "2 + 2 ="}], {"max_tokens": 64, "seed": 0}, expected="It is 4.")


@pytest.mark.parametrize(
    ("expected", "found", "share"), [("abcd", "abcd", 1.0), ("abcd", "abxx", 0.5), ("ab", "abcd", 0.5), ("", "", 1.0)]
)
def test_agreement_is_the_length_of_the_common_beginning(expected: str, found: str, share: float) -> None:
    assert agreement(expected, found) == share


def test_one_equal_answer_is_enough_and_late_differences_are_ignored() -> None:
    assert is_same([0.0, 1.0, 0.1]) and is_same([0.6, 0.5])
    assert not is_same([0.2, 0.3, 0.4])


def test_a_check_stays_within_the_limits_of_the_endpoint() -> None:
    assert within(CHECK, Limits(), known_tokens=9) == CHECK
    capped = within(CHECK, Limits(max_output_tokens=40), known_tokens=9)
    assert capped is not None and capped.sampling == {"max_tokens": 40, "seed": 0} and not capped.is_cut
    cut = within(CHECK, Limits(max_output_tokens=4), known_tokens=9)
    assert cut is not None and cut.sampling["max_tokens"] == 4 and cut.is_cut
    assert within(CHECK, Limits(max_prompt_chars=6), known_tokens=9) is None
    long = CHECK._replace(messages=[{"role": "user", "content": "x" * 2000}])
    assert within(long, Limits(max_body_bytes=1024), known_tokens=9) is None


def stream(text: str) -> bytes:
    return b'data: {"choices": [{"delta": {"content": "' + text.encode() + b'"}}]}\n\ndata: [DONE]\n\n'


def test_of_an_answer_that_a_limit_ends_the_beginning_is_compared() -> None:
    cut = CHECK._replace(is_cut=True)
    with chat_server(lambda number, sent: (200, stream("It is"))) as server:
        url = server.url.removesuffix("/v1")
        assert run_smoke_checks(url, [cut]) == {"m": 1.0}
        assert run_smoke_checks(url, [CHECK])["m"] < 1.0
    with chat_server(lambda number, sent: (200, stream("Other"))) as server, pytest.raises(ServeError, match="differ"):
        run_smoke_checks(server.url.removesuffix("/v1"), [cut])


def test_a_check_that_is_refused_says_what_was_asked_and_why() -> None:
    refusal = {"error": {"message": "max_tokens: 64, at most 40"}}
    with (
        chat_server(lambda number, sent: (422, refusal)) as server,
        pytest.raises(ServeError, match=r"a problem of the evaluation, asked again .* max_tokens: 64, at most 40"),
    ):
        run_smoke_checks(server.url.removesuffix("/v1"), [CHECK])
