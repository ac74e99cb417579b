"""Features of traces' texts that the filters need: lengths, repetition, foreign scripts. Pure, over columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distill.core.schema import arrow_schema, content_hash
from distill.mix.prompt_facts import PromptFacts
from distill.mix.scripts import foreign_share
from distill.mix.seeded_order import keys_of
from distill.models.chat_template import ENDS_INSIDE, NO_COMPLETION, end_of_turn, holds_published_mark, taught_text
from distill.models.thinking import THINKING_CLOSED, holds_reasoning
from distill.models.token_counts import TokenCounter

FEATURES_VERSION = 6
"""Raised when a feature changes its meaning, so that stored ones are computed again."""

RUN_WORDS = 8
"""Words of a run that can count as repeated. Shorter runs recur in sound reasoning ("so the value of x is")."""
TEXTS_AT_ONCE = 1 << 10
"""Texts whose runs are sorted together: their number takes 10 bits of the hash, and 54 are left."""
FACTOR = np.uint64(0x9E3779B97F4A7C15)
REFUSALS = ("", NO_COMPLETION, THINKING_CLOSED, ENDS_INSIDE)


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
    holds_reasoning: bool
    """Whether it reasons within delimiters."""


def trace_features(traces: pa.RecordBatch, facts: PromptFacts, counters: Sequence[TokenCounter]) -> pa.Table:
    """A table of `TraceFeatures`, in the order of the traces.

    Args:
        traces: their `trace_id`, `prompt_id` and `completion`.
        facts: of their prompts.
        counters: of the students' tokenizers, the first student's first.
    """
    rows = facts.rows(keys_of(traces.column("prompt_id"), "prompt id"))
    completions: list[str] = traces.column("completion").to_pylist()
    stripped = [completion.strip() for completion in completions]
    lengths = [row_lengths(stripped, rows, facts, *one) for one in enumerate(counters)]
    refusals = np.array([one.refusals for one in lengths])
    is_refused, first = (refusals > 0).any(axis=0), (refusals > 0).argmax(axis=0)
    learnt, whole = (np.where(is_refused, 0, columns) for columns in zip(*(one[1:] for one in lengths), strict=True))
    scripts = [facts.scripts[code] for code in facts.script_codes[rows].tolist()]
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(traces.column("completion")))
    columns = {
        "trace_id": traces.column("trace_id"),
        "tokens": learnt[0],
        "most_tokens": learnt.max(axis=0),
        "row_tokens": whole.max(axis=0),
        "refusal": pa.array(REFUSALS).take(pa.array(refusals[first, np.arange(len(rows))])),
        "repetition": repeated_shares(words),
        "foreign": [foreign_share(*one) for one in zip(completions, scripts, strict=True)],
        "holds_reasoning": list(map(holds_reasoning, stripped)),
        "digest": [sha256(text).hexdigest()[:16] for text in pc.binary_join(words, " ").cast(pa.binary()).to_pylist()],
    }
    schema = arrow_schema(TraceFeatures)
    return pa.table([pa.array(columns[name], schema.field(name).type) for name in schema.names], schema=schema)


class RowLengths(NamedTuple):
    """For each trace."""

    refusals: NDArray[np.int8]
    """Index in `REFUSALS`."""
    learnt: NDArray[np.int64]
    """Tokens with loss."""
    whole: NDArray[np.int64]
    """Tokens of the training row."""


def row_lengths(
    completions: Sequence[str], rows: NDArray[np.int64], facts: PromptFacts, column: int, counter: TokenCounter
) -> RowLengths:
    """Lengths of the rows that `render_example` makes of these traces for one tokenizer, and why it makes none.

    Args:
        completions: without white space around them.
        rows: of their prompts in the facts.
        facts: of their prompts.
        column: of the tokenizer in the facts.
        counter: of the tokenizer.
    """
    ends = [facts.ends[code] for code in facts.end_codes[rows, column].tolist()]
    taught = [taught_text(counter.tokenizer, *one, facts.how) for one in zip(ends, completions, strict=True)]
    counts = counter.count([text or "" for text in taught])
    ends_inside = counts.holds_control | np.array([holds_published_mark(text or "") for text in taught], np.bool_)
    states = [np.array([not text for text in completions]), np.array([text is None for text in taught]), ends_inside]
    learnt = counts.tokens + len(end_of_turn(counter.tokenizer))
    codes = [np.int8(code) for code in range(1, len(REFUSALS))]
    return RowLengths(np.select(states, codes, np.int8(0)), learnt, learnt + facts.tokens[rows, column])


def repeated_share(words: Sequence[str]) -> float:
    """`repeated_shares` of one text."""
    return float(repeated_shares(pa.array([words], pa.list_(pa.string())))[0])


def repeated_shares(texts: pa.ListArray, length: int = RUN_WORDS) -> NDArray[np.float64]:
    """For each text, a list of words: the share of its runs of `length` words that occur earlier in it; 0 for a text
    shorter than a run.

    It is 1 - distinct runs / runs: near 0 for prose, near 1 for a loop.
    """
    numbers = texts.flatten().dictionary_encode().indices.to_numpy().astype(np.uint64)
    lengths = texts.value_lengths().to_numpy().astype(np.int64)
    shares = [
        _distinct_shares(numbers[start:stop], part, length) for start, stop, part in _slices(lengths, TEXTS_AT_ONCE)
    ]
    found: NDArray[np.float64] = 1.0 - np.concatenate([np.empty(0), *shares])
    return found


def _slices(lengths: NDArray[np.int64], size: int) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Where the words of each slice of texts begin and end, and the texts' lengths."""
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    for first in range(0, len(lengths), size):
        part = lengths[first : first + size]
        yield int(bounds[first]), int(bounds[first + len(part)]), part


def _distinct_shares(numbers: NDArray[np.uint64], lengths: NDArray[np.int64], length: int) -> NDArray[np.float64]:
    """Distinct runs / runs of each text, 1 where it has no run; `numbers` are the words of all, one after another."""
    num_runs = np.maximum(lengths - length + 1, 0)
    text_of = np.repeat(np.arange(len(lengths), dtype=np.uint64), num_runs)
    starts = np.repeat(np.cumsum(lengths) - lengths - np.cumsum(num_runs) + num_runs, num_runs)
    starts += np.arange(len(starts))
    runs = np.zeros(len(starts), dtype=np.uint64)
    for offset in range(length):  # a polynomial hash modulo 2^64
        runs = runs * FACTOR + numbers[starts + offset] + np.uint64(1)
    runs = (runs ^ runs >> np.uint64(32)) * FACTOR  # the last words reach the upper 54 bits, which are kept
    bits = np.uint64(TEXTS_AT_ONCE.bit_length() - 1)
    runs = np.sort(text_of << (np.uint64(64) - bits) | runs >> bits)
    is_first = np.ones(len(runs), dtype=np.bool_)
    is_first[1:] = runs[1:] != runs[:-1]
    distinct = np.bincount((runs[is_first] >> (np.uint64(64) - bits)).astype(np.int64), minlength=len(lengths))
    shares: NDArray[np.float64] = np.where(num_runs > 0, distinct / np.maximum(num_runs, 1), 1.0)
    return shares


def tokenizer_identity(files: Mapping[str, bytes]) -> str:
    """Identity of a tokenizer: the contents of its files."""
    return content_hash("tokenizer", {name: sha256(content).hexdigest() for name, content in sorted(files.items())})
