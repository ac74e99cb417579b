"""The training prompts."""

from pydantic import Field

from distill.config.base import Section
from distill.config.sources import PromptSource


class PromptsConfig(Section):
    """The training prompts."""

    sources: tuple[PromptSource, ...] = Field(min_length=1)
    """Where prompts come from; all are read, duplicates removed."""
    num_prompts: int | None = Field(default=None, ge=1)
    """Keep at most this many, chosen by a seeded hash of the problem. Absent: all."""
    max_problem_chars: int = Field(default=20_000, ge=1)
    """A longer problem is dropped (and counted), characters."""
    near_duplicates: float = Field(default=0.9, ge=0.0, le=1.0)
    """A prompt is dropped when it is at least this similar to another one: Jaccard similarity, 0 to 1, of their word
    3-grams, with equal numbers, mathematical signs and answer. Below 0.6 some pairs are missed. 0: off."""
    decontaminate_ngram: int = Field(default=13, ge=0, le=100)
    """Decontamination: a prompt is dropped when it is a benchmark's problem in other words. That is when shared n-grams
    (of this many words, numbers and signs) cover half of the shorter text and all numbers of one occur in the other, or
    when the texts are equal. An n-gram that is half boilerplate is no evidence; boilerplate is what more than 1 % of
    the prompts, and more than 20, share. 0: off."""
