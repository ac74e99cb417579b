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
    """A prompt that is at least this alike to another one is dropped: Jaccard similarity, 0 to 1, of their runs of
    three words, where numbers, mathematical signs and the answer are the same. Below 0.6 some are not found. 0: off."""
    decontaminate_ngram: int = Field(default=13, ge=0, le=100)
    """A prompt is dropped that says the same as a problem of a benchmark: such runs of words, numbers and signs of this
    length as they share cover half of the shorter one, and all numbers of one stand in the other; or the two are equal
    as a whole. A run that is half wording of the task is no evidence: wording is what more than 1 % of the prompts, and
    more than 20, share. 0: off."""
