"""Splits reasoning from the answer, into `reasoning_content` and `content`. Pure.

Delimiters are text, not tokens: a student writes those of its traces, whatever its tokenizer makes of them.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field


class Delimiters(BaseModel):
    """The texts that open and close a model's reasoning."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    start: str = Field("<think>", min_length=1)
    """How a completion with reasoning begins; one that begins otherwise is all answer."""

    end: str = Field("</think>", min_length=1)
    """What ends the reasoning, at its first occurrence."""

    is_open: bool = False
    """The chat template has opened the reasoning already: a completion begins inside it."""

    is_closed: bool = False
    """The chat template has closed the reasoning already: a completion is all answer."""

    openings: tuple[str, ...] = ()
    """Lines of which one may stand before the reasoning: the mode, of a model that writes it itself. It is content."""


def opening_delimiter(end: str) -> str:
    """The delimiter that `end` closes, by its spelling: `</think>` -> `<think>`."""
    if end == "<channel|>":  # Gemma 4: a channel has a name
        return "<|channel>thought"
    return end.replace("</", "<").replace("[/", "[").replace("end_of", "begin_of").replace("|END_", "|START_")


def join_reasoning(reasoning: str, answer: str, end: str = "</think>") -> str:
    """Reasoning and answer that came apart, as one text in the form that models and data sets write it."""
    if not reasoning.strip():
        return answer
    return f"{opening_line(end)}{reasoning.strip()}\n{end}\n\n{answer.lstrip()}"


def opening_line(end: str) -> str:
    """How reasoning begins that `end` closes; empty where the delimiter does not show how it is opened."""
    opening = opening_delimiter(end)
    return "" if opening == end else f"{opening}\n"


def with_opening(text: str, end: str = "</think>") -> str:
    """Text whose reasoning is closed but not opened, since the chat template had opened it, with its opening; any other
    text as it is."""
    opening = opening_line(end)
    if not end or end not in text or opening.strip() in text.partition(end)[0]:
        return text
    return opening + text.removeprefix("\n")


class Split(NamedTuple):
    """A piece of text, split into reasoning and content."""

    reasoning: str = ""
    content: str = ""


class Splitter:
    """Splits one completion incrementally; text that may still become a delimiter is held back."""

    def __init__(self, delimiters: Delimiters) -> None:
        self._delimiters = delimiters
        self._state = "start"
        self._held = ""
        self._thought = ""
        """What was returned as reasoning, where the prompt had opened it: it may turn out to be the answer."""
        self._is_opened_again = False
        self._has_reasoned = delimiters.is_closed
        self._openings = () if delimiters.is_open else delimiters.openings
        """Those that the completion may still begin with; what the prompt has opened has no line before it."""

    @property
    def is_reasoning(self) -> bool:
        """Whether the reasoning has begun and not ended."""
        is_open = self._state == "start" and self._delimiters.is_open
        return is_open or self._state in ("reasoning_start", "reasoning")

    def feed(self, text: str) -> Split:
        """The parts of the text so far that are certain by now and were not returned before."""
        self._held += text
        reasoning, opening = "", self._opening()
        if self._openings:
            return Split()
        if self._state == "start":
            self._begin()
        self._skip_newlines("reasoning_start", "reasoning")
        if self._state == "reasoning":
            reasoning = self._reason()
            self._thought += reasoning if self._delimiters.is_open else ""
        self._skip_newlines("answer_start", "answer")
        content = self._answer() if self._state == "answer" else ""
        return Split(reasoning, opening + content)

    def _opening(self) -> str:
        """The line before the reasoning, once it is whole; none is waited for any more where the text is another."""
        whole = next((one for one in self._openings if self._held.startswith(one)), "")
        self._openings = () if whole else tuple(one for one in self._openings if one.startswith(self._held))
        return self._take(len(whole))

    def finish(self, finish_reason: str = "stop") -> Split:
        """The text that was held back, at the end of the completion.

        A model that the prompt had put inside a block, and that ended its turn without closing it, has answered without
        reasoning: all of its text is the answer, although a stream has shown it as reasoning already.
        """
        rest = self._take(len(self._held))
        if not self.is_reasoning:
            return Split(content=rest)
        is_answer = self._delimiters.is_open and not self._is_opened_again and finish_reason != "length"
        return Split(content=self._thought + rest) if is_answer else Split(reasoning=rest)

    def _begin(self) -> None:
        text, start = self._held.lstrip(), self._delimiters.start
        if text.startswith(start):
            self._held = text.removeprefix(start)
            self._state, self._is_opened_again = "reasoning_start", True
        elif not start.startswith(text):
            self._state = "reasoning_start" if self._delimiters.is_open else "answer"

    def _skip_newlines(self, state: str, following: str) -> None:
        """Skip newlines in `state`; go to `following` at the first other character."""
        if self._state == state:
            self._held = self._held.lstrip("\n")
            self._state = following if self._held else state

    def _reason(self) -> str:
        end = self._delimiters.end
        before, found, after = self._held.partition(end)
        if found:
            self._state, self._held, self._has_reasoned = "answer_start", after, True
            return before
        return self._take(len(self._held) - overlap(self._held, end))

    def _answer(self) -> str:
        """The answer without further ends of its reasoning: a model that was made to end it may write its own."""
        if not self._has_reasoned:
            return self._take(len(self._held))
        self._held = self._held.replace(self._delimiters.end, "")
        return self._take(len(self._held) - overlap(self._held, self._delimiters.end))

    def _take(self, num_chars: int) -> str:
        taken, self._held = self._held[:num_chars], self._held[num_chars:]
        return taken


def overlap(text: str, delimiter: str) -> int:
    """Length of the longest end of `text` that `delimiter` begins with."""
    longest = min(len(text), len(delimiter) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(delimiter[:size])), 0)


def split(text: str, delimiters: Delimiters, finish_reason: str = "stop") -> Split:
    """Split a whole completion."""
    splitter = Splitter(delimiters)
    first, rest = splitter.feed(text), splitter.finish(finish_reason)
    if splitter.is_reasoning and rest.content:
        return Split(content=rest.content)
    return Split(first.reasoning + rest.reasoning, first.content + rest.content)


def split_as_streamed(text: str, delimiters: Delimiters, finish_reason: str = "stop") -> str:
    """All text of a streamed completion in the order of its pieces, reasoning and answer."""
    splitter = Splitter(delimiters)
    first, rest = splitter.feed(text), splitter.finish(finish_reason)
    return first.reasoning + first.content + rest.reasoning + rest.content


class StreamSplitter:
    """Splits the events of one chat stream with any number of choices."""

    def __init__(self, delimiters: Delimiters, *, is_shown: bool = True) -> None:
        """`is_shown`: the reasoning is part of the events."""
        self._delimiters = delimiters
        self._is_shown = is_shown
        self._splitters: dict[int, Splitter] = {}
        self.reasoning = ""
        """The reasoning of all choices so far."""

    def rewrite(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event with its text split into `reasoning_content` and `content`."""
        for choice in event.get("choices", ()):
            splitter = self._splitters.setdefault(choice["index"], Splitter(self._delimiters))
            delta = choice["delta"]
            parts = splitter.feed(delta.get("content") or "")
            if choice.get("finish_reason"):
                rest = splitter.finish(choice["finish_reason"])
                parts = Split(parts.reasoning + rest.reasoning, parts.content + rest.content)
            self.reasoning += parts.reasoning
            if parts.reasoning and self._is_shown:
                delta["reasoning_content"] = parts.reasoning
            if "content" in delta or parts.content:
                delta["content"] = parts.content
        return event


def parse_events(text: str) -> list[dict[str, Any]]:
    """The JSON events in a piece of a server-sent event stream, without the final [DONE]."""
    lines = (line.removeprefix("data:").strip() for line in text.split("\n\n") if line.startswith("data:"))
    return [json.loads(line) for line in lines if line != "[DONE]"]


def format_event(event: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
