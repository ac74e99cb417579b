"""Requests to an OpenAI-compatible endpoint with the standard library alone, for programs that ask once.

The `openai` package takes over a second to import; what asks by the thousand (`serve.dataset_client`) uses it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener, getproxies

from serve.loopback import is_loopback

MAX_MESSAGE = 2000
"""Characters of an answer that is no error of the protocol, such as a proxy's page."""


API_PATH = re.compile(r"/+(v1(/+(chat/+completions|completions|models))?/*)?$")
"""What people and programs paste behind an address: the API's root, with or without one of its routes."""


def endpoint_address(url: str) -> str:
    """The base URL of an endpoint, without `/v1`, however it is given: with it or without, without `http://`."""
    whole = url.strip() if "://" in url else f"http://{url.strip()}"
    return API_PATH.sub("", whole)


class RequestFailedError(Exception):
    """Nothing answered (`status` 0), or the endpoint refused a request or broke off."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message


def get_json(url: str, api_key: str, *, timeout_s: float) -> Any:
    """The answer to a GET.

    Raises:
        RequestFailedError: there is none, or it is not JSON.
    """
    return json_of(b"".join(_lines(Request(url, headers=_headers(api_key)), timeout_s)))


def post_json(url: str, body: Mapping[str, Any], api_key: str, *, timeout_s: float) -> Any:
    """The answer to a POST of JSON.

    Raises:
        RequestFailedError: there is none, or it is not JSON.
    """
    return json_of(b"".join(_lines(_post(url, body, api_key), timeout_s)))


def post_events(url: str, body: Mapping[str, Any], api_key: str, *, timeout_s: float) -> Iterator[Any]:
    """The server-sent events of a streamed answer to a POST of JSON, each as it arrives.

    `timeout_s`: between two pieces.

    Raises:
        RequestFailedError: the request is refused, or the stream tells of an error or ends early.
    """
    for line in _lines(_post(url, body, api_key), timeout_s):
        name, _, data = line.strip().partition(b":")
        if name != b"data":
            continue
        if data.strip() == b"[DONE]":
            return
        event = json_of(data)
        if isinstance(event, dict) and event.get("error"):
            raise RequestFailedError(0, error_message(data))
        yield event


def json_of(data: bytes) -> Any:
    """What an answer says.

    Raises:
        RequestFailedError: it is no JSON.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise RequestFailedError(0, f"the answer is not JSON: {data[:200]!r}") from error


def error_message(body: bytes) -> str:
    """The message of an error as the protocol writes it (`{"error": {"message": ...}}`), or the whole text."""
    text = body.decode("utf-8", errors="replace").strip()
    try:
        found = json.loads(text)
    except ValueError:
        return text[:MAX_MESSAGE]
    error = found.get("error", found) if isinstance(found, dict) else found
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or text)[:MAX_MESSAGE]


def _headers(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}", "Accept": "application/json", "User-Agent": "mix-distillation"}


def _post(url: str, body: Mapping[str, Any], api_key: str) -> Request:
    headers = {**_headers(api_key), "Content-Type": "application/json"}
    return Request(url, data=json.dumps(body).encode(), headers=headers)


def _lines(request: Request, timeout_s: float) -> Iterator[bytes]:
    try:
        with _opener(request.full_url).open(request, timeout=timeout_s) as answer:
            yield from answer
    except HTTPError as error:
        with error:
            raise RequestFailedError(error.code, error_message(error.read()) or error.reason) from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: what is no URL
        raise RequestFailedError(0, str(error) or type(error).__name__) from error


def _opener(url: str) -> OpenerDirector:
    """Asks this machine directly, others through the proxies that the environment names."""
    if is_loopback(urlsplit(url).hostname or ""):
        return build_opener(ProxyHandler({}))
    proxies = getproxies()
    of_all = {scheme: proxies["all"] for scheme in ("http", "https") if "all" in proxies}
    return build_opener(ProxyHandler({**of_all, **proxies}))
