"""One answer that engines write in several goes: reasoning that ends with its budget, hard steps by a larger model.

A plan decides the next go from what is written (pure: `serve.api.thinking`); here its goes become one
answer, streamed or whole, for the client.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from ray.llm._internal.serve.core.configs.openai_api_models import ErrorResponse

from serve.api.http_errors import Refusal, upstream_refusal
from serve.api.reasoning_parser import format_event, parse_events
from serve.api.thinking import Go, Plan, Written

Stream = AsyncGenerator[Any, None]


async def in_goes(
    plan: Plan, put: Callable[[Mapping[str, Any]], Stream], *, is_stream: bool, has_usage: bool
) -> Stream:
    """The goes of a plan as one answer. `put` asks an engine; `has_usage`: the client wants a stream's tokens counted.

    Raises:
        Refusal: an engine refuses a go.
    """
    joined: _Streamed | _Whole = _Streamed(has_usage) if is_stream else _Whole()
    while go := plan(joined.written):
        try:
            async for item in joined.take(put(_counted(go.fields) if is_stream else go.fields), go):
                yield item
        except Refusal as refusal:
            if refusal.status != 400 or not joined.written.num_goes:
                raise
            joined.written = joined.written._replace(finish_reason="length")  # the context has no room for this go
            break
    async for item in joined.rest():
        yield item


def _counted(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A stream tells its tokens: events may hold several."""
    return {**fields, "stream_options": {"include_usage": True}}


class _Whole:
    """Answers as one."""

    def __init__(self) -> None:
        self.written = Written()
        self._response: Any = None

    async def take(self, stream: Stream, go: Go) -> Stream:
        more = await anext(stream)
        if isinstance(more, ErrorResponse):
            raise upstream_refusal(int(more.error.code or 500), more.error.message)
        choice = more.choices[0]
        text = go.between + (choice.message.content or "")
        tokens = more.usage.completion_tokens
        self.written = self.written.after(go, text, tokens, choice.finish_reason or "")
        self._response = self._response or more
        nothing: list[Any] = []
        for item in nothing:  # the whole answer comes from `rest`
            yield item

    async def rest(self) -> Stream:
        choice = self._response.choices[0]
        choice.message.content = self.written.text
        choice.finish_reason, choice.stop_reason = self.written.finish_reason, None
        for name, value in self.written.usage(self._response.usage.prompt_tokens).items():
            setattr(self._response.usage, name, value)
        yield self._response


class _Streamed:
    """Streams as one: a go's end is held back until it is known whether another follows."""

    def __init__(self, has_usage: bool) -> None:
        self.written = Written()
        self._has_usage = has_usage
        self._end: dict[str, Any] | None = None
        self._usage_event: dict[str, Any] | None = None
        self._first: dict[str, Any] | None = None

    async def take(self, stream: Stream, go: Go) -> Stream:
        text, tokens, finish_reason, last_end = go.between, 0, "", self._end
        async for event in _events(stream):
            if last_end:  # now it is known to go on
                yield [format_event(_taken_back(last_end, go.between))]
                last_end = None
            if not event.get("choices"):
                tokens = (event.get("usage") or {}).get("completion_tokens", 0)
                self._usage_event = self._usage_event or event
                continue
            (choice,) = event["choices"]
            text += choice["delta"].get("content") or ""
            finish_reason = choice.get("finish_reason") or finish_reason
            if finish_reason:
                self._end = self._as_first(event)
            else:
                yield [format_event(self._as_first(event))]
        self.written = self.written.after(go, text, tokens, finish_reason)

    def _as_first(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event under the id and the model of the first go; the role is told once."""
        if self._first is None:
            self._first = {name: event[name] for name in ("id", "model", "created") if name in event}
        elif self.written.num_goes:
            event["choices"][0]["delta"].pop("role", None)
        return {**event, **self._first}

    async def rest(self) -> Stream:
        if self._end:
            self._end["choices"][0]["finish_reason"] = self.written.finish_reason
            yield [format_event(self._end)]
        if self._has_usage and self._usage_event:
            usage = self._usage_event["usage"]
            yield [format_event({**self._usage_event, "usage": self.written.usage(usage["prompt_tokens"])})]


def _taken_back(event: dict[str, Any], between: str) -> dict[str, Any]:
    """The event that ended a go, as one that does not."""
    (choice,) = event["choices"]
    choice |= {"finish_reason": None, "stop_reason": None}
    choice["delta"]["content"] = (choice["delta"].get("content") or "") + between
    return event


async def _events(stream: Stream) -> AsyncGenerator[dict[str, Any], None]:
    async for item in stream:
        for text in item if isinstance(item, list) else [item]:
            if isinstance(text, ErrorResponse):
                raise upstream_refusal(int(text.error.code or 500), text.error.message)
            for event in parse_events(text):
                if "error" in event:  # made fit for clients already
                    raise Refusal(503, event["error"]["message"], code=event["error"].get("code"))
                yield event
