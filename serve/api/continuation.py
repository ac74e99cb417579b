"""Generates one answer over several engine requests (segments), e.g. to cap thinking tokens.

`serve.api.thinking` decides the next segment from the text so far; this module joins the segments to one answer,
streamed or whole.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from serve.api.http_errors import APIError, upstream_error
from serve.api.reasoning_parser import format_event, parse_events
from serve.api.thinking import AnswerSoFar, NextRequest, Segment
from serve.engines.ray_llm import ErrorResponse

Stream = AsyncGenerator[Any, None]


async def generate_in_segments(
    next_request: NextRequest, send: Callable[[Segment], Stream], *, is_stream: bool, has_usage: bool
) -> Stream:
    """All segments as one answer.

    Args:
        next_request: decides each segment.
        send: sends one segment to an engine, whose answer has the shape of a chat or of a completion.
        is_stream: the client wants a stream.
        has_usage: the client wants the token counts at the end of the stream.

    Raises:
        APIError: an engine refuses a segment.
    """
    joined: _StreamedAnswer | _WholeAnswer = _StreamedAnswer(has_usage) if is_stream else _WholeAnswer()
    while segment := next_request(joined.answer):
        try:
            sent = segment._replace(fields=_with_usage(segment.fields)) if is_stream else segment
            async for item in joined.add(send(sent), segment):
                yield item
        except APIError as error:
            if error.status != 400 or not joined.answer.num_segments or "context" not in error.message:
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

    def __init__(self) -> None:
        self.answer = AnswerSoFar()
        self._response: Any = None

    async def add(self, stream: Stream, segment: Segment) -> Stream:
        response = await anext(stream)
        if isinstance(response, ErrorResponse):
            raise upstream_error(int(response.error.code or 500), response.error.message)
        choice = response.choices[0]
        text = segment.inserted + ((choice.text if segment.continues else choice.message.content) or "")
        tokens = response.usage.completion_tokens
        self.answer = self.answer.after(segment, text, tokens, choice.finish_reason or "")
        self._response = self._response or response
        nothing: list[Any] = []
        for item in nothing:  # `finish` yields the whole answer
            yield item

    async def finish(self) -> Stream:
        choice = self._response.choices[0]
        choice.message.content = self.answer.text
        choice.finish_reason, choice.stop_reason = self.answer.finish_reason, None
        for name, value in self.answer.usage(self._response.usage.prompt_tokens).items():
            setattr(self._response.usage, name, value)
        yield self._response


class _StreamedAnswer:
    """Joins streams to one: the last event of a segment is held back until it is known whether another follows."""

    def __init__(self, has_usage: bool) -> None:
        self.answer = AnswerSoFar()
        self._has_usage = has_usage
        self._last_event: dict[str, Any] | None = None
        self._usage_event: dict[str, Any] | None = None
        self._first: dict[str, Any] | None = None

    async def add(self, stream: Stream, segment: Segment) -> Stream:
        text, tokens, finish_reason, held_back = segment.inserted, 0, "", self._last_event
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
            finish_reason = choice.get("finish_reason") or finish_reason
            if finish_reason:
                self._last_event = self._as_first(event)
            else:
                yield [format_event(self._as_first(event))]
        self.answer = self.answer.after(segment, text, tokens, finish_reason)

    def _as_first(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event under the id and the model of the first segment; only the first event has the role."""
        if self._first is None:
            self._first = {name: event[name] for name in ("id", "object", "model", "created") if name in event}
        elif self.answer.num_segments:
            event["choices"][0]["delta"].pop("role", None)
        return {**event, **self._first}

    async def finish(self) -> Stream:
        if self._last_event:
            self._last_event["choices"][0]["finish_reason"] = self.answer.finish_reason
            yield [format_event(self._last_event)]
        if self._has_usage and self._usage_event:
            usage = self._usage_event["usage"]
            yield [format_event({**self._usage_event, "usage": self.answer.usage(usage["prompt_tokens"])})]


def _without_finish(event: dict[str, Any], inserted: str) -> dict[str, Any]:
    """The last event of a segment as an ordinary one, followed by the inserted text."""
    (choice,) = event["choices"]
    choice |= {"finish_reason": None, "stop_reason": None}
    choice["delta"]["content"] = (choice["delta"].get("content") or "") + inserted
    return event


async def _events(stream: Stream) -> AsyncGenerator[dict[str, Any], None]:
    async for item in stream:
        for text in item if isinstance(item, list) else [item]:
            if isinstance(text, ErrorResponse):
                raise upstream_error(int(text.error.code or 500), text.error.message)
            for event in parse_events(text):
                if "error" in event:  # scrubbed already
                    raise APIError(503, event["error"]["message"], code=event["error"].get("code"))
                yield event
