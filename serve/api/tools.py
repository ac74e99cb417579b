"""Calls of tools: what a model may write, and what of its text is a call. Pure.

One form is read, that of Hermes, which the chat templates of Qwen, SmolLM and many others ask for: a JSON object with
`name` and `arguments` between `<tool_call>` and `</tool_call>`. The engine's grammar keeps every call within the schema
of its tool. A model whose template does not ask for that form is refused by name.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from serve.api.constrained import ANY_OBJECT, Format, after_reasoning, json_format, with_format
from serve.api.reasoning_parser import Delimiters, overlap
from serve.api.unused_fields import TOOL_FIELDS

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class Call(NamedTuple):
    """A call of a tool."""

    name: str
    arguments: str
    """JSON."""


def asks_in_this_form(prompt: str, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a rendered prompt tells the model of its tools, and to call them in the form that is read here."""
    return OPEN in prompt and all(tool["function"]["name"] in prompt for tool in tools)


def with_tools(fields: Mapping[str, Any], delimiters: Delimiters | None) -> dict[str, Any]:
    """The request as the engine gets it: the tools for the chat template, and a grammar for the calls."""
    kept = {name: value for name, value in fields.items() if name not in TOOL_FIELDS}
    form = after_reasoning(_calls(fields), delimiters)
    # `none` keeps the engine from looking for calls itself. The tags may be special tokens.
    return {"skip_special_tokens": False, **with_format(kept, form), "tool_choice": "none"}


def _calls(fields: Mapping[str, Any]) -> Format:
    choice, tools = fields.get("tool_choice", "auto"), fields["tools"]
    if isinstance(choice, Mapping):
        name = choice["function"]["name"]
        return next(_call(tool["function"]) for tool in tools if tool["function"]["name"] == name)
    tags = [_call(tool["function"]) for tool in tools]
    ends = {"stop_after_first": fields.get("parallel_tool_calls") is False}
    if choice == "required":
        return {"type": "tags_with_separator", "tags": tags, "separator": "\n", "at_least_one": True, **ends}
    return {"type": "triggered_tags", "triggers": [OPEN], "tags": tags, "at_least_one": False, **ends}


def _call(function: Mapping[str, Any]) -> Format:
    schema = {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": function.get("parameters") or ANY_OBJECT},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    return {"type": "tag", "begin": f"{OPEN}\n", "content": json_format(schema), "end": f"\n{CLOSE}"}


class CallSplitter:
    """Splits one answer incrementally into text and calls; what may still become a call is held back.

    A closing tag within a string of a call is part of the call, which goes on to a later one.
    """

    def __init__(self) -> None:
        self._held = ""
        self._looked_at = 0
        """Where to look for the next closing tag of a call that has begun, behind the opening one."""
        self.num_calls = 0

    def feed(self, text: str) -> tuple[str, list[Call]]:
        """Text and calls that are certain by now and were not returned before."""
        self._held += text
        content, calls = "", []
        while True:
            before, opened, after = self._held.partition(OPEN)
            if not opened:
                kept = overlap(self._held, OPEN)
                content += self._held[: len(self._held) - kept]
                self._held = self._held[len(self._held) - kept :]
                break
            content, self._held = content + before, opened + after
            end = after.find(CLOSE, self._looked_at)
            if end < 0:
                break
            inner = after[:end]
            if call := parse_call(inner):
                calls.append(call)
            elif ends_in_string(inner):
                self._looked_at = end + len(CLOSE)
                continue
            else:  # never a call: text up to its first closing tag, behind which one may stand
                end = after.find(CLOSE)
                content += f"{OPEN}{after[:end]}{CLOSE}"
            self._held, self._looked_at = after[end + len(CLOSE) :], 0
        self.num_calls += len(calls)
        return content, calls

    def finish(self) -> str:
        """The text that was held back, at the end of the answer: a call that was cut off is none."""
        rest, self._held = self._held, ""
        return rest


def parse_call(text: str) -> Call | None:
    """A call of a tool; None for what is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    arguments = found.get("arguments", {})
    return Call(found["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))


def ends_in_string(text: str) -> bool:
    """Whether a text is the beginning of a JSON object or list up to somewhere within a string."""
    closed = f'{text}"'
    try:
        json.loads(closed)
    except json.JSONDecodeError as error:
        return error.pos == len(closed)  # nothing is wrong but that it ends
    return False


def split_calls(text: str) -> tuple[str, list[Call]]:
    """Text and calls of a whole answer."""
    splitter = CallSplitter()
    content, calls = splitter.feed(text)
    content += splitter.finish()
    return content.strip() if calls else content, calls


def call_fields(call: Call, index: int | None = None) -> dict[str, Any]:
    """A call as clients read it; `index`: its number within a stream."""
    fields = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": call._asdict()}
    return fields if index is None else {"index": index, **fields}


class StreamCallSplitter:
    """Splits the events of one chat stream with any number of choices."""

    def __init__(self, *, is_named: bool) -> None:
        """`is_named`: the request names the tool to call, which ends an answer as any other."""
        self._is_named = is_named
        self._splitters: dict[int, CallSplitter] = {}

    def rewrite(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event with its text split into `content` and `tool_calls`."""
        for choice in event.get("choices", ()):
            splitter = self._splitters.setdefault(choice["index"], CallSplitter())
            delta, first = choice["delta"], splitter.num_calls
            content, calls = splitter.feed(delta.get("content") or "")
            if choice.get("finish_reason"):
                content += splitter.finish()
            if splitter.num_calls and not content.strip():
                content = ""  # the lines between calls
            if "content" in delta:
                delta["content"] = content
            if calls:
                delta["tool_calls"] = [call_fields(call, first + number) for number, call in enumerate(calls)]
            if choice.get("finish_reason") == "stop" and splitter.num_calls and not self._is_named:
                choice["finish_reason"] = "tool_calls"
        return event
