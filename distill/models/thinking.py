"""What a rendered prompt does with the model's reasoning, and how a trace continues it. Pure functions on text.

A chat template may leave the model inside its reasoning (the prompt ends in `<think>`), behind a block that is closed
already (`<think></think>`), at the beginning of the answer, or free to open a block itself. A trace is stored whole,
with both delimiters, and is taught as the model itself would have gone on from its prompt.
"""

from typing import NamedTuple

from serve.api.reasoning_parser import opening_delimiter, with_opening


class ThinkTags(NamedTuple):
    """The texts that open and close reasoning."""

    start: str
    end: str


ENDS = (
    "</think>",
    "[/THINK]",
    "</thinking>",
    "</seed:think>",
    "<|end_of_thought|>",
    "<|END_THINKING|>",
    "<channel|>",
)
KNOWN = tuple(ThinkTags(opening_delimiter(end), end) for end in ENDS)
"""The delimiters of published models and data sets."""

TAG_TOKENS = frozenset([*(tag for pair in KNOWN for tag in pair), "<|channel>"])
"""What is one token in the vocabularies of models that write it. Gemma 4's opening is a token and the word `thought`.
"""

ANSWER_START = "<|START_RESPONSE|>"
"""Command R7B and Aya begin the answer with it; where the prompt has, the model does not reason."""

THINKING_CLOSED = "thinking_closed"
"""Why a row is dropped: the prompt has closed the reasoning, and the trace reasons."""


class PromptEnd(NamedTuple):
    """How a prompt leaves the model."""

    opened: ThinkTags | None = None
    """The delimiters of the block that it has opened: a completion begins inside it."""
    space: str = ""
    """White space between the opening delimiter and the end of the prompt."""
    closed: ThinkTags | None = None
    """The delimiters of the block that it has closed: the model is asked not to reason."""
    is_answer: bool = False
    """It has begun the answer. A student that never had a block of its own can still be taught to reason in it."""

    @property
    def opening(self) -> str:
        """What the prompt has written of the reasoning; empty where it is not inside one."""
        return self.opened.start + self.space if self.opened else ""


def prompt_end(prompt: str) -> PromptEnd:
    """How a rendered prompt leaves the model."""
    text = prompt.rstrip()
    space = prompt[len(text) :]
    for one in KNOWN:
        if text.endswith(one.start):
            return PromptEnd(opened=one, space=space)
        if text.endswith(one.end):
            return PromptEnd(closed=one)
    return PromptEnd(is_answer=text.endswith(ANSWER_START))


def with_prompt_opening(prompt: str, completion: str) -> str:
    """An engine's text as a whole trace: what its prompt had opened is put back in front."""
    end = prompt_end(prompt)
    is_opened_again = end.opened is not None and completion.lstrip().startswith(end.opened.start)
    return completion if is_opened_again else end.opening + completion


def continuation(prompt: str, completion: str) -> str | None:
    """`continuation_after` the end of a rendered prompt."""
    return continuation_after(prompt_end(prompt), completion)


def continuation_after(end: PromptEnd, completion: str) -> str | None:
    """The trace as the model would go on from the prompt; None where the prompt rules out that it reasons.

    * The prompt has opened the reasoning: without the trace's own opening; a trace without reasoning closes it first,
      which is how these models answer without thinking.
    * The prompt has begun the answer: without an empty block, and without a second beginning.
    * The prompt has opened nothing: unchanged, but for an opening that was lost.

    Args:
        end: how the prompt leaves the model.
        completion: the whole trace, without white space around it.
    """
    own = reasoning_delimiters(completion)
    if own is not None and is_empty_block(completion, own) and (end.opened or end.closed or end.is_answer):
        completion, own = completion.partition(own.end)[2].lstrip(), None
    if end.is_answer:
        completion = completion.removeprefix(ANSWER_START).lstrip()
    if end.opened is None:
        if own is None:
            return completion
        if end.closed is not None:
            return None
        return with_opening(completion, own.end)
    if own is None:
        return f"\n{end.opened.end}\n\n{completion}"
    body = completion.removeprefix(own.start).replace(own.end, end.opened.end, 1)
    return body.lstrip() if end.space else body


def holds_reasoning(completion: str) -> bool:
    """Whether a trace holds reasoning within delimiters: no prompt that has closed the reasoning leads to it."""
    return continuation_after(PromptEnd(closed=KNOWN[0]), completion) is None


def reasoning_delimiters(completion: str) -> ThinkTags | None:
    """The delimiters of a trace's reasoning; None where it has none."""
    begun = [one for one in KNOWN if completion.startswith(one.start)]
    return next(iter([*begun, *(one for one in KNOWN if one.end in completion)]), None)


def is_empty_block(completion: str, tags: ThinkTags) -> bool:
    """Whether a trace begins with a block that holds nothing, as hybrid models write where they do not reason."""
    block, closed, _ = completion.partition(tags.end)
    return bool(closed) and not block.removeprefix(tags.start).strip()
