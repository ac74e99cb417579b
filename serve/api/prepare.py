"""Makes of a client's request what the engine is asked: the turns, options and end tokens of the model. Pure."""

from collections.abc import Mapping
from typing import Any

from serve.api.http_errors import APIError
from serve.api.modes import AUTO, mode_line, system_in_user_turn, with_mode_line
from serve.config import Endpoint
from serve.errors import ServeError


def prepared_chat(fields: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """The fields of a chat request as the engine gets them.

    A mode becomes its line and its template options, the endpoint's template options apply where the request sets
    none, and the turn ends where the model was taught to end it.

    Raises:
        APIError: 400, the model has no such mode.
    """
    asked = dict(fields)
    mode = asked.pop("mode", None)
    line = _line(endpoint, mode)
    asked["messages"] = with_mode_line(asked["messages"], line)
    if endpoint.system_as == "user":
        asked["messages"] = system_in_user_turn(asked["messages"])
    own = {**endpoint.template_options, **endpoint.mode_options.get(mode or "", {})}
    if options := {**own, **(asked.get("chat_template_kwargs") or {})}:
        asked["chat_template_kwargs"] = options
    return with_stop_tokens(asked, endpoint)


def _line(endpoint: Endpoint, mode: str | None) -> str:
    if mode in (None, AUTO):
        return ""
    try:
        return mode_line(endpoint.modes, mode)
    except ServeError as error:
        raise APIError(400, f"mode: {error}", code="invalid_field", param="mode") from error


def with_stop_tokens(fields: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """The fields with the model's end tokens, unless the request wants none to count, and with its think tags kept."""
    fields = {"skip_special_tokens": False, **fields} if endpoint.keeps_special_tokens else fields
    if fields.get("ignore_eos") or not endpoint.stop_token_ids:
        return dict(fields)
    ids = [*(fields.get("stop_token_ids") or ()), *endpoint.stop_token_ids]
    return {**fields, "stop_token_ids": list(dict.fromkeys(ids))}


def as_asked_of(fields: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """The fields that were prepared for one model as they are sent to another: token ids and template options of the
    first mean something else there."""
    kept = {name: value for name, value in fields.items() if name not in ("stop_token_ids", "chat_template_kwargs")}
    options = {"chat_template_kwargs": endpoint.template_options} if endpoint.template_options else {}
    return with_stop_tokens({**kept, **options}, endpoint)
