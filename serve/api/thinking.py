"""Decides the next engine request from the text so far: budget forcing and speculative thinking. Pure functions.

The other ways in which a request can have a model answer are in `serve.api.forcing`.

`budget_forcing`: once the reasoning has used its budget, it is closed and the answer follows. `speculative_thinking`: a
larger model (the helper) writes the hard steps of a small student ("speculative thinking", arXiv 2504.12329): where the
student's own text shows doubt, the helper writes that step, and the student continues from it.

Every segment but the first goes on from the rendered prompt and the text so far. The turns are never rendered again:
chat templates drop or insert reasoning in an assistant turn, and the model would go on from another text than its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from serve.api.reasoning_parser import Delimiters, Splitter, overlap

STEP_END = "\n\n"
"""What ends a step of reasoning."""

MAX_SEGMENTS = 64
"""Segments after which the student is no longer interrupted: each has an engine prefill the text again."""

OPENING = "opening"
"""The text of a mode that stands before the answer; made of the request's mode, never sent by a client."""

PLAN_FIELDS = ("thinking_budget", "speculative", "share", "extend", "end_bias", "language", "think")
"""Request fields that have an answer written over several engine requests, or behind a text of ours; one at a time."""

OWN_FIELDS = frozenset({"max_completion_tokens", "include_reasoning", OPENING, *PLAN_FIELDS})
"""Request fields that engines do not know, or know under another name."""


class Segment(NamedTuple):
    """One request to an engine, and the text to insert before what the engine writes."""

    fields: Mapping[str, Any]
    inserted: str = ""
    continues: str = ""
    """The model's text so far, with what is inserted: the engine goes on behind it. Empty: a new turn."""
    is_draft: bool = False
    """What the engine writes is no part of the answer: a plan takes from it what it needs."""


class AnswerSoFar(NamedTuple):
    """The text and token counts of all finished segments."""

    text: str = ""
    used_tokens: int = 0
    helper_tokens: int = 0
    """Those of `used_tokens` that another model than the first wrote."""
    finish_reason: str = ""
    """Finish reason of the last segment."""
    num_segments: int = 0
    first: str = ""
    """The model that was asked: that of the first segment, unless another one is set before."""
    last: str = ""
    """Model of the last segment."""
    draft: str = ""
    """What was written as a draft."""
    stopped_at: str = ""
    """The stop string at which the last segment ended; empty where it ended otherwise."""

    def after(
        self, segment: Segment, text: str, tokens: int, finish_reason: str, stopped_at: str = ""
    ) -> "AnswerSoFar":
        """With one more segment; `text` includes the inserted text."""
        model = str(segment.fields.get("model", ""))
        first = self.first or model
        helped = tokens if model != first else 0
        return AnswerSoFar(
            text=self.text + ("" if segment.is_draft else text),
            draft=self.draft + (text if segment.is_draft else ""),
            stopped_at=stopped_at,
            used_tokens=self.used_tokens + tokens,
            helper_tokens=self.helper_tokens + helped,
            finish_reason=finish_reason,
            num_segments=self.num_segments + 1,
            first=first,
            last=model,
        )

    def usage(self, prompt_tokens: int) -> dict[str, int]:
        """Tokens of all segments: the prompt counts once, and text that a later segment continues counts as output."""
        found = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.used_tokens,
            "total_tokens": prompt_tokens + self.used_tokens,
        }
        return found | ({"helper_tokens": self.helper_tokens} if self.helper_tokens else {})


CHAT_FIELDS = frozenset(
    {
        "messages",
        "chat_template_kwargs",
        "add_generation_prompt",
        "continue_final_message",
        "logprobs",
        "top_logprobs",
        "response_format",
    }
)
"""Fields of a chat request that a completion of token ids has no use for."""

NextRequest = Callable[[AnswerSoFar], Segment | None]
"""The next segment to request; None where the answer is complete."""


class Speculation(BaseModel):
    """The request option `speculative`: which model writes the hard steps, and how much."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    model: StrictStr = Field(min_length=1, max_length=256)
    """The helper: a larger model served at the same address."""

    max_tokens: StrictInt = Field(default=256, ge=1, le=1_000_000)
    """Most tokens that the helper may write in all; the student writes the rest alone."""

    step_tokens: StrictInt = Field(default=64, ge=1, le=1_000_000)
    """Most tokens of one step of the helper; a step ends earlier at an empty line."""

    triggers: tuple[Annotated[StrictStr, Field(min_length=1, max_length=200)], ...] = Field(
        default=("\n\nWait", "\n\nHmm", "\n\nBut ", "\n\nAlternatively"), min_length=1, max_length=16
    )
    """Texts that mark a step as hard; the helper continues right after them."""


def budget_forcing(fields: Mapping[str, Any], budget: int, delimiters: Delimiters) -> NextRequest:
    """Reasoning of at most `budget` tokens, then the rest of what `fields` ask for."""
    requested = requested_tokens(fields)

    def next_request(answer: AnswerSoFar) -> Segment | None:
        if answer.num_segments == 0:
            return Segment(asked(fields, min(budget, requested) if requested else budget))
        is_full = requested is not None and answer.used_tokens >= requested
        if answer.num_segments > 1 or answer.finish_reason != "length" or is_full:
            return None
        inserted = closing_text(answer.text, delimiters)
        rest = requested - answer.used_tokens if requested is not None else None
        return Segment(asked(fields, rest), inserted, continues=answer.text + inserted)

    return next_request


def speculative_thinking(fields: Mapping[str, Any], option: Speculation, delimiters: Delimiters | None) -> NextRequest:
    """The student until it doubts, the helper for one step, and so on until the helper's budget is used up."""
    requested = requested_tokens(fields)

    def next_request(answer: AnswerSoFar) -> Segment | None:
        rest = requested - answer.used_tokens if requested is not None else None
        if (rest is not None and rest <= 0) or is_complete(answer, option):
            return None
        if answer.last == fields["model"] and is_helpers_turn(answer, option, delimiters):
            tokens = min(option.step_tokens, option.max_tokens - answer.helper_tokens, rest or option.step_tokens)
            step = asked(fields, tokens) | stop_at([STEP_END]) | {"model": option.model}
            return Segment(step, continues=answer.text)
        stop = stop_at(option.triggers) if may_help(answer, option, delimiters) else {}
        return Segment(asked(fields, rest) | stop, continues=answer.text)

    return next_request


def is_helpers_turn(answer: AnswerSoFar, option: Speculation, delimiters: Delimiters | None) -> bool:
    """Whether the helper writes the next step: the student has just doubted, and the helper may still write."""
    return answer.text.endswith(option.triggers) and may_help(answer, option, delimiters)


def may_help(answer: AnswerSoFar, option: Speculation, delimiters: Delimiters | None) -> bool:
    """Whether the helper has budget left and the reasoning is not closed yet."""
    is_closed = delimiters is not None and delimiters.end in answer.text
    return answer.helper_tokens < option.max_tokens and answer.num_segments < MAX_SEGMENTS and not is_closed


def is_complete(answer: AnswerSoFar, option: Speculation) -> bool:
    """Whether the last segment ended by itself, and not at a trigger, at the end of a step or at its limit."""
    is_students = answer.last == answer.first
    if answer.finish_reason == "length":
        return is_students  # the context is full, or all requested tokens are written
    return answer.num_segments > 0 and not answer.text.endswith(option.triggers if is_students else STEP_END)


def closing_text(text: str, delimiters: Delimiters) -> str:
    """The text that closes the reasoning of a truncated completion; empty where its reasoning is not open.

    Delimiters are several tokens for most tokenizers, so that a text may have been cut within one: then the rest of it.
    """
    begun = text.lstrip()
    if begun and not delimiters.is_open and delimiters.start.startswith(begun):
        return f"{delimiters.start.removeprefix(begun)}\n\n{delimiters.end}\n\n"
    if not is_reasoning(text, delimiters):
        return ""
    written = overlap(text, delimiters.end)
    return f"{delimiters.end[written:]}\n\n" if written else f"\n{delimiters.end}\n\n"


def is_reasoning(text: str, delimiters: Delimiters) -> bool:
    """Whether a completion is inside its reasoning after this text."""
    splitter = Splitter(delimiters)
    splitter.feed(text)
    return splitter.is_reasoning


def requested_tokens(fields: Mapping[str, Any]) -> int | None:
    """Most tokens that the request asks for; None: as many as fit."""
    return fields.get("max_completion_tokens") or fields.get("max_tokens")


def asked(fields: Mapping[str, Any], max_tokens: int | None) -> dict[str, Any]:
    """The fields that an engine knows, for at most `max_tokens`."""
    kept = {name: value for name, value in fields.items() if name not in OWN_FIELDS}
    return kept if max_tokens is None else kept | {"max_tokens": max_tokens}


def continued_fields(fields: Mapping[str, Any], prompt: Sequence[int]) -> dict[str, Any]:
    """A chat request as one for a completion of token ids, with the same sampling."""
    kept = {name: value for name, value in fields.items() if name not in CHAT_FIELDS}
    return {**kept, "prompt": list(prompt)}


def stop_at(stop: Sequence[str]) -> dict[str, Any]:
    """The fields that end a segment behind one of these texts."""
    return {"stop": list(stop), "include_stop_str_in_output": True}


def behind_prefix(delimiters: Delimiters, prefix: str) -> Delimiters:
    """The delimiters of an answer that goes on from a text which the request has put in the model's mouth."""
    delimiters = delimiters.model_copy(update={"openings": () if prefix.strip() else delimiters.openings})
    if is_reasoning(prefix, delimiters):
        return delimiters.model_copy(update={"is_open": True, "is_closed": False})
    is_begun = delimiters.start.startswith(prefix.strip())  # nothing yet, or a part of the opening
    return delimiters.model_copy(update={"is_open": False, "is_closed": not is_begun})
