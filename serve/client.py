"""Client of a running endpoint, for the terminal and for checks after a deployment."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, NamedTuple

from serve.api.modes import AUTO, mode_line
from serve.api.reasoning_parser import Delimiters, StreamSplitter
from serve.chat_reply import read_message
from serve.errors import ServeError, UnknownModelError
from serve.http_client import RequestFailedError, get_json, post_events, post_json
from serve.key_variables import KEY_VARIABLE, NO_KEY

FIRST_ANSWER_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 600.0
BUSY_WAIT_S = 0.5
CHAT = "/v1/chat/completions"
REFUSED = (401, 403)
BUSY = (429, 503)
"""Too many open requests at an engine, or its replica is starting: both pass."""


class Piece(NamedTuple):
    """A piece of a streamed answer."""

    text: str
    is_reasoning: bool = False


def ask(
    base_url: str, model: str, text: str, *, mode: str = "", api_key: str = NO_KEY, **sampling: Any
) -> Iterator[str]:
    """Stream the answer of `model` to one question, piece by piece, without separate reasoning.

    The question is formatted as in training, by the model's metadata (`system`, `template`, `examples`,
    `modes`).

    Args:
        base_url: address of the endpoint, without `/v1`.
        model: name of the model.
        text: the question.
        mode: a mode of the model. Empty: its first one, if it has any.
        api_key: key of the client.
        sampling: max_tokens, temperature, seed, ... as the protocol names them; default: greedy with seed 0.

    Raises:
        ServeError: nothing answers at `base_url`, the mode is unknown, or the endpoint refuses the question.
        UnknownModelError: no model of that name is served there.
    """
    card = model_card(base_url, model, api_key)
    named = {**sampling, "mode": chosen_mode(card, mode) or None}
    for piece in stream_chat(base_url, model, question_turns(text, card), api_key=api_key, **named):
        if not piece.is_reasoning:
            yield piece.text


def model_card(base_url: str, model: str, api_key: str = NO_KEY) -> dict[str, Any]:
    """The metadata of one served model.

    Raises:
        ServeError: no endpoint answers at `base_url`, or it refuses the API key.
        UnknownModelError: no model of that name is served there.
    """
    try:
        names = _listed(base_url, api_key)
    except RequestFailedError as error:
        raise ServeError(_no_listing(base_url, api_key, error)) from error
    if model not in names:
        raise UnknownModelError(f"{base_url} serves no model {model!r}. It serves: {', '.join(sorted(names))}")
    return names[model]


def stream_chat(
    base_url: str,
    model: str,
    turns: Sequence[Mapping[str, Any]],
    *,
    api_key: str = NO_KEY,
    delimiters: Delimiters | None = None,
    **sampling: Any,
) -> Iterator[Piece]:
    """Stream the model's next turn, piece by piece.

    Args:
        base_url: address of the endpoint, without `/v1`.
        model: name of the model.
        turns: the conversation.
        api_key: key of the client.
        delimiters: of the reasoning, where the server leaves it in the text.
        sampling: fields of the request; those of ours may be a `mode` and a `thinking_budget`.

    Raises:
        ServeError: the endpoint refuses the request or fails.
    """
    named = {key: value for key, value in sampling.items() if value is not None}
    body = {"model": model, "messages": list(turns), "stream": True, "temperature": 0.0, "seed": 0, **named}
    splitter = StreamSplitter(delimiters) if delimiters else None
    try:
        for chunk in post_events(f"{base_url}{CHAT}", body, api_key, timeout_s=ANSWER_TIMEOUT_S):
            yield from _pieces(splitter.rewrite(chunk) if splitter else chunk)
    except RequestFailedError as error:
        raise ServeError(f"{model} at {base_url} failed: {error.message}") from error


def _pieces(chunk: Any) -> Iterator[Piece]:
    choices = chunk.get("choices")
    message = read_message(SimpleNamespace(**(choices[0].get("delta") or {})) if choices else None)
    if message.reasoning:
        yield Piece(message.reasoning, is_reasoning=True)
    if message.text:
        yield Piece(message.text)


def chosen_mode(metadata: Mapping[str, Any], mode: str = "") -> str:
    """The mode to ask a model for: the one that is named, else its first one, or `auto` where the model writes its mode
    itself; empty for a model without modes.

    Raises:
        ServeError: the model has no such mode.
    """
    modes = metadata.get("modes") or {}
    if mode and (mode != AUTO or not modes):
        mode_line(modes, mode)
    return mode or (AUTO if metadata.get("modes_in") else next(iter(modes), ""))


def question_turns(text: str, metadata: Mapping[str, Any]) -> list[dict[str, str]]:
    """Chat turns of one question in the model's own format: its system text, also an empty one, its worked examples,
    the question in its template. The endpoint adds what its mode asks for."""
    template, system = str(metadata.get("template") or "{problem}"), metadata.get("system")
    before = [] if system is None else [{"role": "system", "content": str(system)}]
    examples = [dict(turn) for turn in metadata.get("examples") or ()]
    return [*before, *examples, {"role": "user", "content": template.replace("{problem}", text)}]


def served_models(base_url: str, api_key: str = NO_KEY) -> dict[str, dict[str, Any]]:
    """Metadata of every served model by name; empty if nothing answers at `base_url`.

    Raises:
        ServeError: the API key is refused.
    """
    try:
        return _listed(base_url, api_key)
    except RequestFailedError as error:
        if error.status in REFUSED:
            raise ServeError(_no_listing(base_url, api_key, error)) from error
        return {}


def _listed(base_url: str, api_key: str) -> dict[str, dict[str, Any]]:
    """The models and their metadata.

    Raises:
        RequestFailedError: nothing answers, it refuses, or what answers lists no models.
    """
    answer = get_json(f"{base_url}/v1/models", api_key, timeout_s=10.0)
    try:
        return {model["id"]: dict(model.get("metadata") or {}) for model in answer["data"]}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RequestFailedError(200, "its list of models is no list of models") from error


def _no_listing(base_url: str, api_key: str, error: RequestFailedError) -> str:
    """Why an endpoint's models are not known, and what to do."""
    if error.status == 401 and api_key == NO_KEY:
        return f"{base_url} asks for an API key: set {KEY_VARIABLE}"
    if error.status == 401:
        return f"{base_url} does not know the API key in {KEY_VARIABLE}: set one that is in its key file"
    if error.status == 0:
        return f"no endpoint at {base_url} ({error.message}): start one with `distill serve RUN`, or name it with --url"
    return f"{base_url} answers, but lists no models ({error.status}: {error.message}): name an endpoint with --url"


def warm_up(base_url: str, models: Sequence[str], api_key: str = NO_KEY) -> None:
    """Have every model write one token, so that the first user waits for no kernel or adapter.

    Raises:
        ServeError: a model does not answer.
    """
    body = {"messages": [{"role": "user", "content": "1"}], "max_tokens": 1, "temperature": 0.0, "seed": 0}

    def answer(model: str) -> None:
        timeout_s = FIRST_ANSWER_TIMEOUT_S * len(models)  # they may take turns in one engine
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                post_json(f"{base_url}{CHAT}", body | {"model": model}, api_key, timeout_s=timeout_s)
                return
            except RequestFailedError as error:
                # An engine that takes one request at a time refuses those of its other models meanwhile.
                if error.status not in BUSY or time.monotonic() > deadline:
                    raise ServeError(f"{model} is listed at {base_url} but does not answer: {error.message}") from error
            time.sleep(BUSY_WAIT_S)

    with ThreadPoolExecutor(max_workers=max(1, len(models))) as pool:
        list(pool.map(answer, models))
