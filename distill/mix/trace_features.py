"""What a trace's text says about its fitness: pure functions of texts, one row of features per trace."""

import hashlib
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from distill.core.schema import content_hash
from distill.models.chat_template import render_example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEATURES_VERSION = 1
"""Raised when a feature changes its meaning, so that older ones are computed anew."""

RUN_WORDS = 8
"""Words of a run that counts as repeated. Shorter ones recur in sound reasoning ("so the value of x is")."""

_FOREIGN_LETTER = re.compile(r"[^\W\d_]")
_ALWAYS_FINE = frozenset({"LATIN", "GREEK", "COMBINING", "MODIFIER", "SUPERSCRIPT", "SUBSCRIPT"})
_SYMBOL_LETTERS = ("MATHEMATICAL ", "DOUBLE-STRUCK ", "SCRIPT ", "BLACK-LETTER ", "FULLWIDTH LATIN ", "MICRO ", "OHM ",
    "KELVIN ", "ANGSTROM ", "PLANCK ", "ALEF ", "BET ", "FEMININE ", "MASCULINE ", "INFORMATION ")  # fmt: skip


# Producer: scan. Consumer: filters, and the counts of the manifest.
@dataclass(frozen=True)
class TraceFeatures:
    """What filters need of one correct trace."""

    trace_id: str
    tokens: int
    """Tokens that the first student learns of it: completion and end of turn."""
    most_tokens: int
    """The largest such count over the students' tokenizers."""
    row_tokens: int
    """The longest training row, prompt included, over the students' tokenizers; 0 where there can be none."""
    refusal: str
    """Why rendering makes no training row of it (`no_completion`, `end_of_turn_inside`), or empty."""
    repetition: float
    """Share of its 8-word runs that are there already."""
    foreign: float
    """Share of its letters in a script that neither its problem nor mathematics uses."""
    digest: str
    """Identity of the completion, white space folded."""


def trace_features(
    trace: Mapping[str, str],
    problem: str,
    messages: Sequence[Mapping[str, str]],
    tokenizers: Sequence["PreTrainedTokenizerBase"],
) -> TraceFeatures:
    """Features of a trace (`trace_id`, `completion`) that answers the problem; `messages` are the student's turns."""
    completion = trace["completion"]
    turns = [*messages, {"role": "assistant", "content": completion.strip()}]
    rendered = [render_example(tokenizer, turns, sys.maxsize) for tokenizer in tokenizers]
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
    """Share of the runs of `length` words that occurred before in the text; 0 where there is no run.

    1 - (distinct runs / runs), over all positions: near 0 for prose, near 1 for a loop.
    """
    num_runs = len(words) - length + 1
    if num_runs < 1:
        return 0.0
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.uint64)
    runs = np.zeros(num_runs, dtype=np.uint64)
    for place in range(length):  # a polynomial hash modulo 2^64; a collision would need ~2^32 distinct runs
        runs = runs * np.uint64(0x9E3779B97F4A7C15) + ids[place : place + num_runs] + np.uint64(1)
    return 1.0 - len(np.unique(runs)) / num_runs


def foreign_share(text: str, problem: str) -> float:
    """Share of the letters of a text in scripts that neither the problem nor mathematics uses.

    It tells scripts apart, not languages that share one: Chinese in an English trace, but not French.
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
