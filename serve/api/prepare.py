"""Makes of a client's request what the engine is asked: the turns, options and end tokens of the model. Pure."""

from collections.abc import Mapping
from typing import Any

from serve.api.http_errors import APIError
from serve.api.modes import AUTO, mode_line, system_in_user_turn, with_mode_line
from serve.api.request_schema import plan_conflict
from serve.api.thinking import OPENING, PLAN_FIELDS
from serve.config import Endpoint
from serve.errors import ServeError

BUDGETS = {"minimal": 256, "low": 1024}
"""Effort -> tokens of reasoning, for a model without modes; more effort is not cut short."""


def prepared_chat(fields: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """The fields of a chat request as the engine gets them.

    A mode becomes its line and its template options, or what begins the completion; the endpoint's template options
    apply where the request sets none, and the turn ends where the model was taught to end it.

    Raises:
        APIError: 400, the model has no such mode, the mode does not go with another field, or the model cannot be asked
            for such an effort.
    """
    asked = with_effort(fields, endpoint)
    mode = asked.pop("mode", None)
    line = _line(endpoint, mode)
    asked["messages"] = with_mode_line(asked["messages"], line)
    if endpoint.system_as == "user":
        asked["messages"] = system_in_user_turn(asked["messages"])
    if mode in endpoint.mode_openings:
        asked[OPENING] = endpoint.mode_openings[mode]
        if found := plan_conflict(asked):
            words = f"mode: {mode} begins the completion of this model, which {found[1]}"
            raise APIError(400, words, code="invalid_field", param="mode")
    own = {**endpoint.template_options, **endpoint.mode_options.get(mode or "", {})}
    if options := {**own, **(asked.get("chat_template_kwargs") or {})}:
        asked["chat_template_kwargs"] = options
    return with_stop_tokens(asked, endpoint)


def with_effort(fields: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """The fields with `reasoning_effort` as what the model has for it: a mode, no reasoning, or a budget of it.

    Raises:
        APIError: 400, it has nothing for it, or the request says the same twice.
    """
    asked = dict(fields)
    effort = asked.pop("reasoning_effort", None)
    if effort is None:
        return asked
    chosen = effort_fields(effort, endpoint)
    if doubled := [name for name in ("mode", *PLAN_FIELDS) if chosen and asked.get(name) is not None]:
        words = f"reasoning_effort: cannot be combined with {doubled[0]}"
        raise APIError(400, words, code="invalid_field", param="reasoning_effort")
    asked |= chosen
    if found := plan_conflict(asked):
        words = f"reasoning_effort: {effort} becomes {found[0]} for this model, which {found[1]}"
        raise APIError(400, words, code="invalid_field", param="reasoning_effort")
    return asked


def effort_fields(effort: str, endpoint: Endpoint) -> dict[str, Any]:
    """What an effort asks of a model; empty where it is what the model does anyway.

    Raises:
        APIError: 400, the model was not taught to reason longer.
    """
    is_little, is_much = effort in ("none", *BUDGETS), effort in ("high", "xhigh", "max")
    style = "short" if is_little else "long" if is_much else ""
    if mode := next((name for name in (effort, style) if name in endpoint.modes), ""):
        return {"mode": mode}
    if endpoint.reasoning is None and is_much:
        words = f"reasoning_effort: this model does not reason, so that {effort} asks for nothing that it has"
        raise APIError(400, words, code="invalid_field", param="reasoning_effort")
    if endpoint.reasoning is None or not is_little:
        return {}
    return {"think": False} if effort == "none" else {"thinking_budget": BUDGETS[effort]}


def _line(endpoint: Endpoint, mode: str | None) -> str:
    if mode is None or mode == AUTO or mode in endpoint.mode_openings:
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
