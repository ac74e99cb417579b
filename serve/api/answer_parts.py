"""Splits what an engine answers, streamed or whole, into reasoning, content and calls of tools.

Importing this module imports vLLM, which takes seconds.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from vllm.entrypoints.generate.base.protocol import ToolCall
from vllm.entrypoints.serve.engine.protocol import CompletionTokenUsageInfo

from serve.api.reasoning_parser import Delimiters, StreamSplitter, format_event, parse_events, split
from serve.api.responses import ResponseBuilder
from serve.api.tools import StreamCallSplitter, call_fields, split_calls

Stream = AsyncGenerator[Any, None]
DONE = "data: [DONE]\n\n"


async def split_reasoning(
    stream: Stream, delimiters: Delimiters, *, is_shown: bool, count: Callable[[str], Awaitable[int]]
) -> Stream:
    """The stream, or the one whole answer in it, with the reasoning in a field of its own and its tokens in the usage.

    Args:
        stream: what the engine answers.
        delimiters: of the reasoning.
        is_shown: the reasoning is returned; otherwise it only counts.
        count: counts the tokens of a text. Those of the reasoning are counted anew: engines tell one number.
    """
    splitter = StreamSplitter(delimiters, is_shown=is_shown)
    async for item in stream:
        if isinstance(item, str | list):
            yield await _rewritten(item, splitter.rewrite, lambda: count(splitter.reasoning))
            continue
        reasoning = ""
        for choice in getattr(item, "choices", ()):
            parts = split(choice.message.content or "", delimiters, choice.finish_reason or "stop")
            choice.message.content = parts.content
            reasoning += parts.reasoning
            if parts.reasoning and is_shown:
                choice.message.reasoning_content = parts.reasoning
        if reasoning:
            tokens = min(await count(reasoning), item.usage.completion_tokens)
            item.usage.completion_tokens_details = CompletionTokenUsageInfo(reasoning_tokens=tokens)
        yield item


async def split_tool_calls(stream: Stream, *, is_named: bool) -> Stream:
    """The stream, or the one whole answer in it, with calls of tools in a field of their own.

    Args:
        stream: an answer whose reasoning is split off.
        is_named: the request names the tool to call, which ends an answer as any other.
    """
    splitter = StreamCallSplitter(is_named=is_named)
    async for item in stream:
        if isinstance(item, str | list):
            yield await _rewritten(item, splitter.rewrite)
            continue
        for choice in getattr(item, "choices", ()):
            content, calls = split_calls(choice.message.content or "")
            choice.message.content = content or (None if calls else "")
            choice.message.tool_calls = [ToolCall(**call_fields(call)) for call in calls]
            if calls and choice.finish_reason == "stop" and not is_named:
                choice.finish_reason = "tool_calls"
        yield item


async def response_events(builder: ResponseBuilder, first: str | list[str], stream: Stream) -> AsyncIterator[str]:
    """A chat's stream as the events of a response.

    Args:
        builder: of the response.
        first: what the stream has yielded already.
        stream: the rest of it.
    """
    for text in builder.begin():
        yield text
    item: str | list[str] | None = first
    while item is not None:
        for event in parse_events("".join(item)):
            if "error" in event:
                yield format_event(event)
                return
            for text in builder.events(event):
                yield text
        item = await anext(stream, None)
    for text in builder.end():
        yield text


async def _rewritten(
    item: str | list[str],
    rewrite: Callable[[dict[str, Any]], dict[str, Any]],
    reasoning_tokens: Callable[[], Awaitable[int]] | None = None,
) -> str | list[str]:
    """Events of a stream, each rewritten; the one that tells the usage at the end also tells the reasoning's tokens."""
    text = "".join(item)
    events = [rewrite(event) for event in parse_events(text)]
    for event in events:
        if reasoning_tokens is not None and not event.get("choices") and event.get("usage"):
            tokens = min(await reasoning_tokens(), event["usage"].get("completion_tokens", 0))
            event["usage"]["completion_tokens_details"] = {"reasoning_tokens": tokens}
    written = "".join(map(format_event, events)) + (DONE if DONE in text else "")
    return written if isinstance(item, str) else [written]
