"""Features of a trace's text that the filters need: lengths, repetition, foreign scripts. Pure functions."""

import hashlib
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.core.schema import content_hash
from distill.models.chat_template import NO_OPTIONS, render_example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEATURES_VERSION = 3
"""Raised when a feature changes its meaning, so that stored ones are computed again."""

RUN_WORDS = 8
"""Words of a run that can count as repeated. Shorter runs recur in sound reasoning ("so the value of x is")."""

_FOREIGN_LETTER = re.compile(r"[^\W\d_]")
_ALWAYS_FINE = frozenset({"LATIN", "GREEK", "COMBINING", "MODIFIER", "SUPERSCRIPT", "SUBSCRIPT"})
_SYMBOL_LETTERS = ("MATHEMATICAL ", "DOUBLE-STRUCK ", "SCRIPT ", "BLACK-LETTER ", "FULLWIDTH LATIN ", "MICRO ", "OHM ",
    "KELVIN ", "ANGSTROM ", "PLANCK ", "ALEF ", "BET ", "FEMININE ", "MASCULINE ", "INFORMATION ")  # fmt: skip


# Producer: feature_store. Consumers: filters, and the token counts of the manifest.
@dataclass(frozen=True)
class TraceFeatures:
    """What the filters need to know of one correct trace."""

    trace_id: str
    tokens: int
    """Tokens that the first student learns: completion and end of turn."""
    most_tokens: int
    """The largest such count over the students' tokenizers."""
    row_tokens: int
    """Length of the training row, prompt included; the largest over the students' tokenizers. 0: there is none."""
    refusal: str
    """Why rendering rejects it (`no_completion`, `end_of_turn_inside`, `thinking_closed`), or empty."""
    repetition: float
    """Share of its 8-word runs that occur earlier in the text."""
    foreign: float
    """Share of its letters in a script that neither its problem nor mathematics uses."""
    digest: str
    """Identity of the completion, with white space folded."""


def trace_features(
    trace: Mapping[str, str],
    problem: str,
    messages: Sequence[Mapping[str, str]],
    tokenizers: Sequence["PreTrainedTokenizerBase"],
    options: Mapping[str, Any] = NO_OPTIONS,
) -> TraceFeatures:
    """Features of one trace.

    Args:
        trace: its `trace_id` and `completion`.
        problem: that it answers.
        messages: the turns that ask a student the problem.
        tokenizers: of the students, the first student's first.
        options: variables of the chat template.
    """
    completion = trace["completion"]
    turns = [*messages, {"role": "assistant", "content": completion.strip()}]
    rendered = [render_example(tokenizer, turns, sys.maxsize, options) for tokenizer in tokenizers]
    refusals = [one for one in rendered if isinstance(one, str)]
    rows = [] if refusals else [one for one in rendered if not isinstance(one, str)]
    learnt = [sum(label >= 0 for label in row.labels) for row in rows]
    words = completion.split()
    return TraceFeatures(
        trace_id=trace["trace_id"],
        tokens=learnt[0] if learnt else 0,
        most_tokens=max(learnt, default=0),
        row_tokens=max((len(row.input_ids) for row in rows), default=0),
        refusal=refusals[0] if refusals else "",
        repetition=repeated_share(words),
        foreign=foreign_share(completion, problem),
        digest=content_hash("completion", words),
    )


def repeated_share(words: Sequence[str], length: int = RUN_WORDS) -> float:
    """Share of the runs of `length` words that occur earlier in the text; 0 for a text shorter than a run.

    It is 1 - distinct runs / runs: near 0 for prose, near 1 for a loop.
    """
    num_runs = len(words) - length + 1
    if num_runs < 1:
        return 0.0
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.uint64)
    runs = np.zeros(num_runs, dtype=np.uint64)
    for offset in range(length):  # a polynomial hash modulo 2^64; a collision would need ~2^32 distinct runs
        runs = runs * np.uint64(0x9E3779B97F4A7C15) + ids[offset : offset + num_runs] + np.uint64(1)
    return 1.0 - len(np.unique(runs)) / num_runs


def foreign_share(text: str, problem: str) -> float:
    """Share of a text's letters in scripts that neither the problem nor mathematics uses.

    It distinguishes scripts, not languages: it finds Chinese in an English trace, but not French.
    """
    if text.isascii():
        return 0.0
    fine = _ALWAYS_FINE | _scripts(problem)
    letters = _FOREIGN_LETTER.findall(text)
    foreign = sum(not letter.isascii() and _script(letter) not in fine for letter in letters)
    return foreign / len(letters) if letters else 0.0


def _scripts(text: str) -> frozenset[str]:
    return frozenset() if text.isascii() else frozenset(_script(letter) for letter in _FOREIGN_LETTER.findall(text))


@lru_cache(maxsize=65536)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    return "LATIN" if name.startswith(_SYMBOL_LETTERS) else name.split(" ")[0].split("-")[0]


def tokenizer_identity(files: Mapping[str, bytes]) -> str:
    """Identity of a tokenizer: the contents of its files."""
    return content_hash(
        "tokenizer", {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    )
