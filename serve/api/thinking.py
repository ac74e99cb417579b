"""Plans of answers that take several goes at engines. Pure: from what is written comes the next request.

`budget_plan`: the reasoning is closed once it has spent its budget, then the answer follows. `speculative_plan`: a
small student whose hard steps a larger model writes ("speculative thinking", arXiv 2504.12329): where the student turns
to doubt, by its own words, the helper writes that step, and the student goes on from it.

Every go but the first continues the last assistant turn: a chat template that drops reasoning from such a turn makes
the model forget what it thought.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from serve.api.reasoning_parser import Delimiters, Splitter

STEP_END = "\n\n"
"""What ends a step of reasoning."""

MAX_GOES = 64
"""Goes after which the student is no longer interrupted: each has an engine read the text anew."""

OWN_FIELDS = frozenset({"max_completion_tokens", "thinking_budget", "speculative"})
"""Ours, or said in another way to the engine."""


class Go(NamedTuple):
    """One request to an engine, and what stands between the text so far and what it writes."""

    fields: Mapping[str, Any]
    between: str = ""


class Written(NamedTuple):
    """The answer so far."""

    text: str = ""
    used_tokens: int = 0
    helper_tokens: int = 0
    """Those of `used_tokens` that another model than the first wrote."""
    finish_reason: str = ""
    """How the last go ended."""
    num_goes: int = 0
    first: str = ""
    """Model of the first go."""
    last: str = ""
    """Model of the last go."""

    def after(self, go: Go, text: str, tokens: int, finish_reason: str) -> "Written":
        """With one more go; `text` holds what stands between too."""
        model = str(go.fields.get("model", ""))
        first = self.first or model
        helped = tokens if model != first else 0
        return Written(
            text=self.text + text,
            used_tokens=self.used_tokens + tokens,
            helper_tokens=self.helper_tokens + helped,
            finish_reason=finish_reason,
            num_goes=self.num_goes + 1,
            first=first,
            last=model,
        )

    def usage(self, prompt_tokens: int) -> dict[str, int]:
        """Tokens of all goes: the prompt counts once, what a later go was handed counts as written."""
        found = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.used_tokens,
            "total_tokens": prompt_tokens + self.used_tokens,
        }
        return found | ({"helper_tokens": self.helper_tokens} if self.helper_tokens else {})


Plan = Callable[[Written], Go | None]
"""The next go; none: the answer is complete."""


class Speculation(BaseModel):
    """The request option `speculative`: who writes the hard steps, and how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: StrictStr = Field(min_length=1, max_length=256)
    """The helper: a larger model of the same address."""

    max_tokens: StrictInt = Field(256, ge=1, le=1_000_000)
    """Tokens that the helper may write in all; the student does the rest alone."""

    step_tokens: StrictInt = Field(64, ge=1, le=1_000_000)
    """Tokens of one step of the helper's; it ends earlier at an empty line."""

    triggers: tuple[Annotated[StrictStr, Field(min_length=1, max_length=200)], ...] = Field(
        ("\n\nWait", "\n\nHmm", "\n\nBut ", "\n\nAlternatively"), min_length=1, max_length=16
    )
    """Texts at which a step counts as hard; the helper goes on right behind them."""


def budget_plan(fields: Mapping[str, Any], budget: int, delimiters: Delimiters) -> Plan:
    """Reasoning of at most `budget` tokens, then the rest of what `fields` ask for."""
    asked = _asked(fields)

    def plan(written: Written) -> Go | None:
        if written.num_goes == 0:
            return Go(_continued(fields, "", min(budget, asked) if asked else budget))
        is_full = asked is not None and written.used_tokens >= asked
        if written.num_goes > 1 or written.finish_reason != "length" or is_full:
            return None
        between = closing(written.text, delimiters)
        rest = asked - written.used_tokens if asked is not None else None
        return Go(_continued(fields, written.text + between, rest), between)

    return plan


def speculative_plan(fields: Mapping[str, Any], option: Speculation, delimiters: Delimiters | None) -> Plan:
    """The student until it doubts, the helper for one step, and so on until the helper's budget is spent."""
    asked = _asked(fields)

    def plan(written: Written) -> Go | None:
        rest = asked - written.used_tokens if asked is not None else None
        if (rest is not None and rest <= 0) or is_complete(written, option):
            return None
        if written.last == fields["model"] and hands_over(written, option, delimiters):
            tokens = min(option.step_tokens, option.max_tokens - written.helper_tokens, rest or option.step_tokens)
            return Go(_continued(fields, written.text, tokens) | _until([STEP_END]) | {"model": option.model})
        stop = _until(option.triggers) if may_help(written, option, delimiters) else {}
        return Go(_continued(fields, written.text, rest) | stop)

    return plan


def hands_over(written: Written, option: Speculation, delimiters: Delimiters | None) -> bool:
    """Whether the next step is the helper's: the student has just doubted, and it may be helped."""
    return written.text.endswith(option.triggers) and may_help(written, option, delimiters)


def may_help(written: Written, option: Speculation, delimiters: Delimiters | None) -> bool:
    """Whether the helper has budget left and the reasoning is not closed yet."""
    is_closed = delimiters is not None and delimiters.end in written.text
    return written.helper_tokens < option.max_tokens and written.num_goes < MAX_GOES and not is_closed


def is_complete(written: Written, option: Speculation) -> bool:
    """Whether the last go came to an end of its own, and not to a trigger, to the end of a step or to its limit."""
    is_students = written.last == written.first
    if written.finish_reason == "length":
        return is_students  # the context is full, or all tokens that were asked for are written
    return written.num_goes > 0 and not written.text.endswith(option.triggers if is_students else STEP_END)


def closing(text: str, delimiters: Delimiters) -> str:
    """What closes the reasoning of a completion that was cut; empty where it does not reason (any more)."""
    splitter = Splitter(delimiters)
    splitter.feed(text)
    return f"\n{delimiters.end}\n\n" if splitter.is_reasoning else ""


def _asked(fields: Mapping[str, Any]) -> int | None:
    return fields.get("max_completion_tokens") or fields.get("max_tokens")


def _continued(fields: Mapping[str, Any], text: str, max_tokens: int | None) -> dict[str, Any]:
    """The request that goes on from `text`, for at most so many tokens."""
    kept = {name: value for name, value in fields.items() if name not in OWN_FIELDS}
    go = kept if max_tokens is None else kept | {"max_tokens": max_tokens}
    if not text:
        return go
    return go | {
        "messages": [*fields["messages"], {"role": "assistant", "content": text}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }


def _until(stop: Sequence[str]) -> dict[str, Any]:
    return {"stop": list(stop), "include_stop_str_in_output": True}
