"""Fields of OpenAI's and of vLLM's requests that nothing here reads. Pure.

With a value that asks for nothing such a field is dropped, since clients send whole sets of defaults; with any other
value it is refused by name, with what to do instead.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from serve.api.http_errors import APIError


class Unused(NamedTuple):
    """What a field may be although nobody reads it, and why it is refused otherwise."""

    harmless: tuple[Any, ...]
    reason: str


_BEAM = "beam search is not offered"
_DISAGGREGATED = "prefill and decoding are not apart on this server"

UNUSED: Mapping[str, Unused] = {
    "audio": Unused((), "models here write text only"),
    "best_of": Unused((1,), "choices are not ranked; ask for n"),
    "chat_template": Unused(("",), "a request cannot bring a chat template of its own"),
    "documents": Unused(([],), "put documents into a message"),
    "early_stopping": Unused((False,), _BEAM),
    "ec_transfer_params": Unused(({},), _DISAGGREGATED),
    "function_call": Unused(("none", "auto"), "superseded: use tool_choice"),
    "functions": Unused(([],), "superseded: use tools"),
    "kv_transfer_params": Unused(({},), _DISAGGREGATED),
    "length_penalty": Unused((1,), _BEAM),
    "media_io_kwargs": Unused(({},), "models here read text only"),
    "mm_processor_kwargs": Unused(({},), "models here read text only"),
    "modalities": Unused((["text"],), "models here write text only"),
    "prediction": Unused((), "predicted outputs are not offered"),
    "priority": Unused((0,), "requests are taken in the order in which they come"),
    "prompt_embeds": Unused(([], ""), "send the prompt as text or as token ids"),
    "service_tier": Unused(("auto", "default"), "there is one tier"),
    "store": Unused((False,), "nothing is stored here"),
    "suffix": Unused(("",), "text cannot be inserted before a suffix"),
    "thinking_token_budget": Unused((-1,), "use thinking_budget"),
    "use_beam_search": Unused((False,), _BEAM),
    "verbosity": Unused(("medium",), "no model here was taught lengths of answers; see mode"),
    "web_search_options": Unused((), "there is no search"),
}

TOOL_FIELDS = ("tool_choice", "parallel_tool_calls")
"""How tools are called; without tools they ask for nothing."""

LABELS = frozenset({"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"})
"""What clients note about a request for OpenAI's own records: may have any value, and is not passed on."""


def without_unused(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that something reads. A field that is null is as good as absent.

    Raises:
        APIError: 400, a field asks for what is not offered.
    """
    kept = {name: value for name, value in fields.items() if value is not None and name not in LABELS}
    for name in UNUSED.keys() & kept.keys():
        harmless, reason = UNUSED[name]
        if not _is_among(kept.pop(name), harmless):
            raise APIError(400, f"{name}: {reason}", code="unsupported_field", param=name)
    return _without_idle_tools(kept)


def _is_among(value: Any, harmless: tuple[Any, ...]) -> bool:
    # In Python False is 0 and True is 1.
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in harmless)


def _without_idle_tools(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields without tools that may not be called, and without how to call tools that there are none of."""
    if fields.get("tools") not in (None, []) and fields.get("tool_choice") != "none":
        return fields
    choice = fields.get("tool_choice", "none")
    if choice not in ("none", "auto"):
        raise APIError(400, "tool_choice: there are no tools", code="invalid_field", param="tool_choice")
    return {name: value for name, value in fields.items() if name not in ("tools", *TOOL_FIELDS)}
