"""Generates one answer over several engine requests (segments), e.g. to cap thinking tokens.

`serve.api.thinking` decides the next segment from the text so far; this module joins the segments to one answer,
streamed or whole.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from serve.api.http_errors import APIError
from serve.api.reasoning_parser import format_event, parse_events
from serve.api.thinking import AnswerSoFar, NextRequest, Segment
from serve.engines.ray_llm import ChatCompletionResponse

Stream = AsyncGenerator[Any, None]


async def generate_in_segments(
    next_request: NextRequest, send: Callable[[Segment], Stream], model: str, *, is_stream: bool, has_usage: bool
) -> Stream:
    """All segments as one answer.

    Args:
        next_request: decides each segment.
        model: the one that was asked; what others write is a helper's.
        send: sends one segment to an engine, whose answer has the shape of a chat or of a completion.
        is_stream: the client wants a stream.
        has_usage: the client wants the token counts at the end of the stream.

    Raises:
        APIError: an engine refuses a segment.
    """
    joined = _StreamedAnswer(model, has_usage) if is_stream else _WholeAnswer(model)
    while segment := next_request(joined.answer):
        try:
            sent = segment._replace(fields=_with_usage(segment.fields)) if is_stream else segment
            async for item in joined.add(send(sent), segment):
                yield item
        except APIError as error:
            if error.status != 400 or not joined.answer.text or "context" not in error.message:
                raise
            joined.answer = joined.answer._replace(finish_reason="length")  # the context is full
            break
    async for item in joined.finish():
        yield item


def _with_usage(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A stream must report its tokens: one event may hold several."""
    return {**fields, "stream_options": {"include_usage": True}}


class _WholeAnswer:
    """Joins whole responses to one."""

    def __init__(self, model: str) -> None:
        self.answer = AnswerSoFar(first=model)
        self._prompt_tokens: int | None = None
        self._chat: Any = None
        """The response of the segment that began the answer as a turn; None where one of ours began it."""

    async def add(self, stream: Stream, segment: Segment) -> Stream:
        response = await anext(stream)
        choice = response.choices[0]
        text = segment.inserted + ((choice.text if segment.continues else choice.message.content) or "")
        tokens, ends = response.usage.completion_tokens, (choice.finish_reason or "", _stop_string(choice.stop_reason))
        self.answer = self.answer.after(segment, text, tokens, *ends)
        if self._prompt_tokens is None:
            self._prompt_tokens = response.usage.prompt_tokens
        if not segment.continues and not segment.is_draft:
            self._chat = response
        nothing: list[Any] = []
        for item in nothing:  # `finish` yields the whole answer
            yield item

    async def finish(self) -> Stream:
        response = self._chat or _empty_reply(self.answer.first)
        choice = response.choices[0]
        choice.message.content = self.answer.text
        choice.finish_reason, choice.stop_reason = self.answer.finish_reason, None
        for name, value in self.answer.usage(self._prompt_tokens or 0).items():
            setattr(response.usage, name, value)
        yield response


def _empty_reply(model: str) -> ChatCompletionResponse:
    choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
    return ChatCompletionResponse(model=model, choices=[choice], usage={})


class _StreamedAnswer:
    """Joins streams to one: the last event of a segment is held back until it is known whether another follows."""

    def __init__(self, model: str, has_usage: bool) -> None:
        self.answer = AnswerSoFar(first=model)
        self._has_usage = has_usage
        self._last_event: dict[str, Any] | None = None
        self._usage_event: dict[str, Any] | None = None
        self._first: dict[str, Any] | None = None

    async def add(self, stream: Stream, segment: Segment) -> Stream:
        text, tokens, ends, held_back = segment.inserted, 0, ("", ""), self._last_event
        unsent = "" if held_back else segment.inserted
        async for event in _events(stream):
            if held_back:  # a segment follows it
                yield [format_event(_without_finish(held_back, segment.inserted))]
                held_back = None
            if not event.get("choices"):
                tokens = (event.get("usage") or {}).get("completion_tokens", 0)
                self._usage_event = self._usage_event or event
                continue
            (choice,) = event["choices"]
            if segment.continues:  # a completion's event, as one of a chat
                choice["delta"] = {"content": choice.pop("text", "")}
            text += choice["delta"].get("content") or ""
            if choice.get("finish_reason"):
                ends = (choice["finish_reason"], _stop_string(choice.get("stop_reason")))
            if segment.is_draft:
                continue
            choice["delta"]["content"] = unsent + (choice["delta"].get("content") or "")
            unsent = ""
            if ends[0]:
                self._last_event = self._as_first(event)
            else:
                yield [format_event(self._as_first(event))]
        self.answer = self.answer.after(segment, text, tokens, *ends)

    def _as_first(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event under the id and the model of the first one that is sent; only that one has the role."""
        delta = event["choices"][0]["delta"]
        if self._first is None:
            self._first = {name: event[name] for name in ("id", "object", "model", "created") if name in event}
            if self._first.get("object") == "text_completion":
                self._first["object"] = "chat.completion.chunk"
            delta.setdefault("role", "assistant")
        elif self.answer.num_segments:
            delta.pop("role", None)
        return {**event, **self._first}

    async def finish(self) -> Stream:
        if self._last_event:
            self._last_event["choices"][0]["finish_reason"] = self.answer.finish_reason
            yield [format_event(self._last_event)]
        if self._has_usage and self._usage_event:
            usage = self._usage_event["usage"]
            counted = {"usage": self.answer.usage(usage["prompt_tokens"])}
            yield [format_event({**self._usage_event, **(self._first or {}), **counted})]


def _without_finish(event: dict[str, Any], inserted: str) -> dict[str, Any]:
    """The last event of a segment as an ordinary one, followed by the inserted text."""
    (choice,) = event["choices"]
    choice |= {"finish_reason": None, "stop_reason": None}
    choice["delta"]["content"] = (choice["delta"].get("content") or "") + inserted
    return event


def _stop_string(reason: object) -> str:
    """The text at which a model was stopped; empty where it was a token, or nothing."""
    return reason if isinstance(reason, str) else ""


async def _events(stream: Stream) -> AsyncGenerator[dict[str, Any], None]:
    async for item in stream:
        for text in item if isinstance(item, list) else [item]:
            for event in parse_events(text):
                if "error" in event:  # scrubbed already
                    raise APIError(503, event["error"]["message"], code=event["error"].get("code"))
                yield event
