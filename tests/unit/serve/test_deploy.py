"""What is settled about a deployment before Ray is asked. No server and no Ray."""

import os
import socket

import pytest

from serve.config import ServeConfig
from serve.deploy import Progress, base_url, free_port, is_news
from serve.errors import ServeError
from serve.keys import Key
from serve.proxy_settings import SERVE_ENV, SINGLE_NODE_ENV, prepare_environment


def test_a_port_that_another_program_uses_is_refused_with_the_remedy() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ServeError, match=f"cannot listen on 127.0.0.1:{port} .*or 0 for a free one"):
            free_port(ServeConfig(port=port))


def test_port_0_takes_a_free_one() -> None:
    assert free_port(ServeConfig(port=0)) > 0


def test_an_endpoint_that_listens_everywhere_is_reached_on_the_loopback_address() -> None:
    assert (
        base_url(ServeConfig(host="0.0.0.0", port=8123, keys=[Key(name="a", sha256="0" * 64)]))
        == "http://127.0.0.1:8123"
    )


@pytest.mark.parametrize(("address", "expected"), [("", "1"), ("10.0.0.1:6379", None)])
def test_engines_are_called_by_grpc_on_one_machine_only(
    address: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SERVE_ENV | SINGLE_NODE_ENV:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ADDRESS", address)
    prepare_environment()
    assert os.environ.get("RAY_SERVE_USE_GRPC_BY_DEFAULT") == expected
    assert os.environ["RAY_SERVE_PROXY_USE_GRPC"] == "1"


def test_an_address_that_is_not_this_machines_is_refused_with_another_remedy() -> None:
    config = ServeConfig.model_construct(host="no.such.host.invalid", port=0)
    with pytest.raises(ServeError, match=r"cannot listen on no.such.host.invalid:0 .*--host"):
        free_port(config)
    with pytest.raises(ServeError, match=r"203.0.113.1:0 .*name an address of this machine with --host"):
        free_port(ServeConfig.model_construct(host="203.0.113.1", port=0))


def test_the_newer_loopback_address_works_too() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    config = ServeConfig(host="::1", port=0)
    assert free_port(config) > 0
    assert base_url(config.model_copy(update={"port": 8123})) == "http://[::1]:8123"


def test_progress_is_told_when_an_engine_is_ready_and_after_some_silence() -> None:
    first = Progress(0, 2, 1.0, ("a", "b"))
    assert is_news(first, None, 15.0)
    assert not is_news(first._replace(elapsed_s=9.0), first, 15.0)
    assert is_news(first._replace(elapsed_s=16.0), first, 15.0)
    assert is_news(Progress(1, 2, 9.0, ("b",)), first, 15.0)
    assert first.line == "0 of 2 engines ready after 1 s; starting: a, b"
    assert Progress(2, 2, 40.0).line == "2 of 2 engines ready after 40 s; opening the port"


def test_every_step_after_the_engines_is_news_and_says_what_is_asked() -> None:
    up = Progress(1, 1, 40.0)
    asked = Progress(1, 1, 41.0, step="first_answers", num_asked=3)
    compared = Progress(1, 1, 42.0, step="checks", num_asked=9)
    assert is_news(asked, up, 15.0) and is_news(compared, asked, 15.0)
    assert asked.line == "all 1 engine ready after 41 s; asking each of 3 models once"
    assert compared.line == "all 1 engine ready after 42 s; comparing 9 answers with those of the evaluation"
