"""Keys, pacing, and errors that give nothing away. No server and no Ray."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from serve.api.http_errors import Refusal, scrub, upstream_refusal
from serve.api.limits import Turnstile
from serve.config import ServeConfig
from serve.errors import ServeError
from serve.keys import Key, find_key, hash_key, load_keys, main, parse_keys

ENTRY = f'[[keys]]\nname = "alice"\nsha256 = "{hash_key("secret")}"\n'


def test_a_new_key_is_printed_once_and_its_entry_opens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alice"]) == 0
    printed = capsys.readouterr()
    key = printed.err.split()[-1]
    assert key not in printed.out
    (entry,) = parse_keys(printed.out, "test")
    assert find_key([entry], f"Bearer {key}") == entry


def test_keys_come_from_a_file_or_else_from_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(ENTRY)
    assert load_keys(str(file), None) == load_keys(None, ENTRY)
    assert load_keys(None, None) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[keys", "not TOML"),
        ("", "keys"),
        ('[[keys]]\nname = "a"\nsha256 = "plain-secret"', "sha256"),
        (ENTRY + ENTRY, "same name"),
        (ENTRY + ENTRY.replace("alice", "bob"), "same sha256"),
        (ENTRY + "rate = 3\n", "rate"),
    ],
)
def test_a_wrong_key_file_is_refused_without_repeating_it(text: str, words: str) -> None:
    with pytest.raises(ServeError, match=words) as error:
        parse_keys(text, "keys.toml")
    assert "plain-secret" not in str(error.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="cannot read"):
        load_keys(str(tmp_path / "none.toml"), None)


def test_other_machines_are_let_in_with_keys_only() -> None:
    with pytest.raises(ValidationError, match=r"serve\.keys"):
        ServeConfig(host="0.0.0.0")
    assert ServeConfig(host="0.0.0.0", keys=parse_keys(ENTRY, "test")).host == "0.0.0.0"


def test_a_hash_is_not_shown_with_the_settings() -> None:
    assert hash_key("secret") not in repr(ServeConfig(keys=parse_keys(ENTRY, "test")))


def test_a_paced_key_is_let_in_again_after_the_time_it_was_told() -> None:
    turnstile, key = Turnstile(100), Key(name="a", sha256="0" * 64, requests_per_minute=60)
    for _ in range(6):  # a tenth of a minute's worth may come at once
        turnstile.enter(["e"], key, 0.0)
    with pytest.raises(Refusal) as refused:
        turnstile.enter(["e"], key, 0.0)
    assert refused.value.retry_after_s == pytest.approx(1.0)
    turnstile.enter(["e"], key, refused.value.retry_after_s)
    assert turnstile.num_open == 7


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
def test_an_error_gives_nothing_of_the_server_away(message: str, expected: str) -> None:
    assert scrub(message) == expected


def test_an_engines_own_fault_is_not_described() -> None:
    refusal = upstream_refusal(500, "Traceback /root/secret")
    assert refusal.status == 500 and "secret" not in refusal.message
    assert upstream_refusal(400, "This model's maximum context length is 256 tokens").status == 400
