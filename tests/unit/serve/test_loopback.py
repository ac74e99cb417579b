"""This machine is asked directly, whatever proxies the environment names; other hosts as the environment says."""

import asyncio
import json
from typing import Any

import pytest

from serve.client import served_models, stream_chat
from serve.dataset_client import BatchConfig, Sender
from serve.loopback import direct_options, exempt_loopback, is_loopback
from tests.fixtures.chat_server import chat_server, completion

DEAD_PROXY = "http://127.0.0.1:9"


@pytest.fixture(params=["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def proxied(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    # A kind of proxy for which no package is installed must not even be set up.
    monkeypatch.setenv(request.param, "socks5://127.0.0.1:9" if "ALL" in request.param else DEAD_PROXY)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.8.9.1", "0.0.0.0")),
        *((host, True) for host in ("::1", "[::1]", "::ffff:127.0.0.1", "::")),
        *((host, False) for host in ("", "example.org", "localhost.example.org", "10.0.0.1", "127.example.org", "::2")),
    ],
)
def test_loopback_is_told_by_name_and_address(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


def test_other_hosts_keep_the_environments_proxies_and_tls_keeps_its_certificates() -> None:
    assert direct_options("https://api.example.org/v1") == {}
    assert direct_options("http://127.0.0.1:8000/v1") == {"trust_env": False}
    assert direct_options("https://[::1]:8000") == {"mounts": {"all://[::1]": None}}


def test_the_process_exempts_loopback_only_where_there_is_a_proxy() -> None:
    assert exempt_loopback({}) == exempt_loopback({"NO_PROXY": "a"}) == {}
    found = exempt_loopback({"HTTPS_PROXY": DEAD_PROXY, "NO_PROXY": "intra.net, localhost"})
    assert found == dict.fromkeys(("no_proxy", "NO_PROXY"), "intra.net,localhost,127.0.0.1,::1")
    assert exempt_loopback({"http_proxy": DEAD_PROXY, **found}) == {}
    assert exempt_loopback({"http_proxy": DEAD_PROXY, "no_proxy": "*"}) == {}


@pytest.mark.usefixtures("proxied")
def test_clients_ask_an_endpoint_of_this_machine_directly() -> None:
    def answer(number: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, completion("4")

    async def send(url: str) -> str:
        row = {"model": "m", "messages": [{"role": "user", "content": "2 + 2"}], "sampling": None}
        return (await Sender(url, BatchConfig(max_retries=0, timeout_s=20)).answer(row)).completion

    with chat_server(answer) as server:
        url = server.url.removesuffix("/v1")
        assert served_models(url) == {"remote-1": {"template": "{problem}"}}
        assert asyncio.run(send(url)) == "4"


def test_streams_of_either_kind_are_told_apart_into_reasoning_and_answer() -> None:
    deltas = [{"reasoning": "a"}, {"reasoning_content": "b"}, {"content": None}, {"content": "4"}]

    def answer(number: int, body: dict[str, Any]) -> tuple[int, bytes]:
        return 200, events(deltas)

    with chat_server(answer) as server:
        found = list(stream_chat(server.url.removesuffix("/v1"), "m", [{"role": "user", "content": "x"}]))
    assert [(piece.text, piece.is_reasoning) for piece in found] == [("a", True), ("b", True), ("4", False)]


def events(deltas: list[dict[str, Any]]) -> bytes:
    chunks = [{"id": "1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": one}]} for one in deltas]
    return ("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n").encode()
