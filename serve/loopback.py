"""Addresses of this machine are asked directly: a proxy of the environment (HTTP_PROXY, ALL_PROXY) is for others."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import openai

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine itself (`0.0.0.0`, which clients connect to as such, too)."""
    name = host.lower().strip("[]").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:  # a name
        return False
    inner = getattr(address, "ipv4_mapped", None) or address
    return inner.is_loopback or inner.is_unspecified


def direct_options(url: str) -> dict[str, Any]:
    """Options of an `httpx` client for this address: no proxy where it is this machine; else none, so that the
    environment decides."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not is_loopback(host):
        return {}
    if parts.scheme == "http":
        return {"trust_env": False}
    # The environment also names the certificates (SSL_CERT_FILE), so only its proxies are passed by.
    return {"mounts": {f"all://{f'[{host}]' if ':' in host else host}": None}}


def bounded_client(url: str, timeout_s: float) -> "openai.DefaultAsyncHttpxClient":
    """The HTTP client for an OpenAI client of this address, with a bound on a whole reply.

    The client's own timeout is for one read: a server that sends a byte now and then, as some do to keep a connection
    open, would never reach it.

    Args:
        url: address of the endpoint.
        timeout_s: from the request to the end of its reply, seconds; then an APITimeoutError.
    """
    import asyncio  # start time, as the next: a command that only shows its help needs neither

    import openai

    class Bounded(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, **options: Any) -> Any:
            try:
                async with asyncio.timeout(timeout_s):
                    return await super().send(request, **options)
            except TimeoutError as error:
                raise openai.APITimeoutError(request=request) from error

    return Bounded(**direct_options(url))


def exempt_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep libraries' clients (`requests`, `urllib`), here and in child processes, from asking a proxy
    for this machine; empty where no proxy is set, or where it is exempt already."""
    if not any(environment.get(name) or environment.get(name.upper()) for name in PROXY_VARIABLES):
        return {}
    value = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    missing = [name for name in LOOPBACK_NAMES if name not in entries]
    if "*" in entries or not missing:
        return {}
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join([*entries, *missing]))
