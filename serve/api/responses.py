"""OpenAI's /v1/responses for text, stateless: a request as one of a chat, and the chat's answer as a response. Pure.

Nothing is kept: a conversation is sent whole each time. Items of other kinds than text and reasoning are refused.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from serve.api.http_errors import APIError
from serve.api.message_schema import MAX_MESSAGES
from serve.api.reasoning_parser import format_event

HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "background": (False,),
    "conversation": (),
    "max_tool_calls": (),
    "parallel_tool_calls": (True, False),
    "previous_response_id": (),
    "prompt": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "truncation": ("disabled",),
}
"""Fields that nothing reads -> their values that ask for nothing."""

LABELS = frozenset({"metadata", "user", "prompt_cache_key", "safety_identifier"})
SAME = ("model", "temperature", "top_p", "stream")
"""Fields of the same name in a chat request."""
SAMPLING = frozenset(
    {
        *("chat_template_kwargs", "frequency_penalty", "ignore_eos", "include_reasoning", "include_stop_str_in_output"),
        *("logit_bias", "presence_penalty", "repetition_penalty", "seed", "skip_special_tokens", "stop"),
        *("structured_outputs", "top_k"),
    }
)
"""Fields that vLLM takes in a response as in a chat; they are checked as those of a chat."""


class _Reasoning(BaseModel):
    model_config = ConfigDict(extra="forbid")

    effort: StrictStr | None = None
    summary: Literal["auto"] | None = None


class _Text(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: dict[str, Any] = Field(default={"type": "text"})
    verbosity: Literal["medium"] | None = None


class ResponsesBody(BaseModel):
    """POST /v1/responses, as far as it is not checked as a chat."""

    model_config = ConfigDict(extra="forbid")

    model: StrictStr
    input: StrictStr | list[dict[str, Any]] = Field(min_length=1, max_length=1_000_000)
    instructions: StrictStr | None = None
    max_output_tokens: StrictInt | None = Field(None, ge=1, le=1_000_000)
    temperature: float | None = None
    top_p: float | None = None
    stream: StrictBool | None = None
    reasoning: _Reasoning | None = None
    text: _Text | None = None
    include: list[Literal["message.output_text.logprobs"]] = Field(default=[], max_length=8)
    top_logprobs: StrictInt | None = None


def chat_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the same request to a chat.

    Raises:
        APIError: 400, a field asks for what is not offered.
        ValidationError: a field is unknown or of another type.
    """
    kept = _without_idle(fields)
    sampling = {name: kept.pop(name) for name in SAMPLING & kept.keys()}
    return {**sampling, **as_chat(ResponsesBody.model_validate(kept))}


def _without_idle(fields: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in fields.items() if value is not None and name not in LABELS}
    for name in HARMLESS.keys() & kept.keys():
        if kept.pop(name) not in HARMLESS[name]:
            words = f"{name}: responses here are of text, and nothing is kept of them"
            raise APIError(400, words, code="unsupported_field", param=name)
    return kept


def as_chat(body: ResponsesBody) -> dict[str, Any]:
    """The fields of the same request to a chat.

    Raises:
        APIError: 400, the input has an item that is no text, or alternatives of tokens are asked for that are not
            included.
    """
    system = [{"role": "system", "content": body.instructions}] if body.instructions else []
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    if len(items) > MAX_MESSAGES:
        words = f"input: {len(items)} items; at most {MAX_MESSAGES} are allowed"
        raise APIError(400, words, code="limit_exceeded", param="input")
    turns = [turn for at, item in enumerate(items) if (turn := _turn(at, item)) is not None]
    given = body.model_dump(include=set(SAME), exclude_none=True)
    effort = {"reasoning_effort": body.reasoning.effort} if body.reasoning and body.reasoning.effort else {}
    limit = {"max_completion_tokens": body.max_output_tokens} if body.max_output_tokens else {}
    usage = {"stream_options": {"include_usage": True}} if body.stream else {}
    return {**given, "messages": [*system, *turns], **effort, **limit, **usage, **_format(body.text), **_logprobs(body)}


def _logprobs(body: ResponsesBody) -> dict[str, Any]:
    if body.include:
        return {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    if body.top_logprobs:
        words = 'top_logprobs: needs include: ["message.output_text.logprobs"]'
        raise APIError(400, words, code="invalid_field", param="top_logprobs")
    return {}


def _turn(at: int, item: Mapping[str, Any]) -> dict[str, Any] | None:
    """The turn of an item; None for reasoning, which models are not shown again."""
    kind = item.get("type", "message")
    if kind == "reasoning":
        return None
    content = item.get("content")
    if kind != "message" or not isinstance(item.get("role"), str) or not isinstance(content, str | list):
        words = f"input[{at}]: only messages and reasoning are read, not an item of type {kind!r}"
        raise APIError(400, words[:300], code="unsupported_field", param=f"input[{at}]")
    parts = content if isinstance(content, list) else [{"type": "input_text", "text": content}]
    for part in parts:
        is_text = isinstance(part, Mapping) and part.get("type") in ("input_text", "output_text", "text")
        if not is_text or not isinstance(part.get("text"), str):
            words = f"input[{at}].content: models here read text only"
            raise APIError(400, words, code="unsupported_field", param=f"input[{at}].content")
    return {"role": item["role"], "content": "".join(part["text"] for part in parts)}


def _format(text: _Text | None) -> dict[str, Any]:
    """A format of the answer, whose schema a response has beside its type and a chat below a key."""
    if text is None or text.format.get("type") == "text":
        return {}
    if text.format.get("type") != "json_schema":
        return {"response_format": text.format}
    schema = {name: value for name, value in text.format.items() if name != "type" and value is not None}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


COMPLETED, INCOMPLETE = "completed", "incomplete"


class ResponseBuilder:
    """A response, whole or as the events of a stream, from what a chat answers.

    It has an item for each kind of text that there is; an empty message where there is none.
    """

    def __init__(self, model: str) -> None:
        self._base = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "error": None,
            "metadata": {},
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "store": False,
        }
        self._items: list[dict[str, Any]] = []
        self._texts: list[str] = []
        self._logprobs: list[Any] = []
        self._usage: Mapping[str, Any] = {}
        self._finish = ""
        self._number = 0

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The response to a chat's whole answer."""
        (choice,) = answer["choices"]
        message, self._logprobs = choice["message"], _entries(choice)
        self._usage, self._finish = answer["usage"], choice["finish_reason"]
        given = [("reasoning", message.get("reasoning_content")), ("message", message.get("content"))]
        shown = [(kind, text) for kind, text in given if text] or [("message", "")]
        ends = [COMPLETED] * (len(shown) - 1) + [self._status]
        self._items = [_item(*one, end, self._logprobs) for one, end in zip(shown, ends, strict=True)]
        return self._response()

    def begin(self) -> Iterator[str]:
        """The events before any text."""
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response={**self._base, "status": "in_progress", "output": []})

    def events(self, event: Mapping[str, Any]) -> Iterator[str]:
        """The events of one event of a chat's stream."""
        self._usage = event.get("usage") or self._usage
        for choice in event.get("choices", ()):
            delta, entries = choice["delta"], _entries(choice)
            self._logprobs += entries
            for kind, text in (("reasoning", delta.get("reasoning_content")), ("message", delta.get("content"))):
                if text:
                    yield from self._piece(kind, text, entries)
            self._finish = choice.get("finish_reason") or self._finish

    def end(self) -> Iterator[str]:
        """The events behind all text."""
        if not self._items:
            yield from self._open("message")
        yield from self._close(self._status)
        response = self._response()
        yield self._event(f"response.{response['status']}", response=response)

    def _piece(self, kind: str, text: str, entries: list[Any]) -> Iterator[str]:
        if not self._items or self._items[-1]["type"] != kind:
            yield from self._close(COMPLETED)
            yield from self._open(kind)
        self._texts.append(text)
        yield self._event(f"{_PREFIX[kind]}.delta", **self._at(), delta=text, **_logprobs_of(kind, entries))

    def _open(self, kind: str) -> Iterator[str]:
        self._items.append(_item(kind, "", "in_progress"))
        self._texts = []
        empty = {**self._items[-1], "content": []}
        yield self._event("response.output_item.added", output_index=len(self._items) - 1, item=empty)
        yield self._event("response.content_part.added", **self._at(), part=self._items[-1]["content"][0])

    def _close(self, status: str) -> Iterator[str]:
        if not self._items:
            return
        item, text = self._items[-1], "".join(self._texts)
        self._items[-1] = done = {**_item(item["type"], text, status, self._logprobs), "id": item["id"]}
        entries = _logprobs_of(item["type"], self._logprobs)
        yield self._event(f"{_PREFIX[item['type']]}.done", **self._at(), text=text, **entries)
        yield self._event("response.content_part.done", **self._at(), part=done["content"][0])
        yield self._event("response.output_item.done", output_index=len(self._items) - 1, item=done)

    def _at(self) -> dict[str, Any]:
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1, "content_index": 0}

    @property
    def _status(self) -> str:
        """Of the response, and of its last item: the one that a limit has cut."""
        return INCOMPLETE if self._finish == "length" else COMPLETED

    def _response(self) -> dict[str, Any]:
        return {
            **self._base,
            "status": self._status,
            "incomplete_details": {"reason": "max_output_tokens"} if self._status == INCOMPLETE else None,
            "output": self._items,
            "usage": _usage(self._usage),
        }

    def _event(self, kind: str, **fields: Any) -> str:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\n{format_event(event)}"


_PREFIX = {"message": "response.output_text", "reasoning": "response.reasoning_text"}


def _entries(choice: Mapping[str, Any]) -> list[Any]:
    """The log-probabilities of the tokens of a chat's choice, or of one event of it; empty where none were asked for.
    A chat's entry has the form of a response's."""
    return list((choice.get("logprobs") or {}).get("content") or ())


def _logprobs_of(kind: str, entries: list[Any]) -> dict[str, list[Any]]:
    """What clients require of events about text."""
    return {"logprobs": entries} if kind == "message" else {}


def _item(kind: str, text: str, status: str, entries: Sequence[Any] = ()) -> dict[str, Any]:
    if kind == "reasoning":
        content = [{"type": "reasoning_text", "text": text}]
        return {"id": f"rs_{uuid.uuid4().hex}", "type": kind, "summary": [], "content": content, "status": status}
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": list(entries)}
    return {"id": f"msg_{uuid.uuid4().hex}", "type": kind, "role": "assistant", "content": [part], "status": status}


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    details = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage.get("prompt_tokens", 0),
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.get("completion_tokens", 0),
        "output_tokens_details": {"reasoning_tokens": details.get("reasoning_tokens") or 0},
        "total_tokens": usage.get("total_tokens", 0),
    }
