"""Problems as tokens and n-grams, to compare their wording. Numbers and mathematical signs are tokens of their own."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from distill.core.schema import fold_compatible

TOKEN = re.compile(
    r"""\d+(?:\.\d+)?
    | [\u3040-\u30ff\u3400-\u9fff]                # a script without spaces: every character is a word
    | [^\W\d_\u3040-\u30ff\u3400-\u9fff]+         # a word, or the name of a LaTeX command
    | (?<=[\d)}])! | (?<=\b[^\W\d_])!             # a factorial, not an exclamation mark
    | [^\w\s!?.,;:'"`$\\{}~&\u2018-\u201f] | _    # a mathematical sign; neither punctuation nor the brackets of LaTeX
    """,
    re.VERBOSE,
)
TOKEN_OR_MARK = re.compile(rf"(?:{TOKEN.pattern})|\S", re.VERBOSE)
LAYOUT = re.compile(
    r"""\\[\[\]()] | \\\\(\[[^\]]*\])?         # display and inline mathematics, a new line
    | \\(?:q?quad|(?:display|text)style|left|right|[bB]igg?[lr]?|limits|nonumber|hspace\*?\{[^}]*\}
       |(?:text|math|operatorname|boldsymbol)[a-z]{0,3})(?![a-z])
    | (?<=\\)[dt](?=frac(?![a-z]))           # \dfrac and \tfrac are \frac
    """,
    re.VERBOSE,
)
"""LaTeX commands of layout, which do not change the meaning of a problem."""
GROUPED_NUMBER = re.compile(r"(?<![\d.,(\[{])[1-9]\d{0,2}(?:(?:,|\{,\}|\\,|,\\!)\d{3})+(?!\d|,\d)")
"""A number with separators of thousands, of text or LaTeX. Behind a bracket it may be a point: (100,200)."""
MARKS = {"<super>": "^", "<sub>": "_", "<fraction>": " ", "<circle>": " "}
"""What stands for a form in plain text: 3⁴ is 3^4, and 3½ is no 31/2."""
NUMBER = re.compile(r"\d")
WORD = re.compile(r"[^\W\d_]+")

SHINGLE = 3
"""Tokens per shingle; short enough for problems of one line."""
NUM_BUCKETS = 1 << 22
"""Counters of shingles, by hash: 32 MiB. A shingle in 1 % of the prompts counts far more than chance collisions."""
COMMON_SHARE = 0.01
COMMON_AT_LEAST = 20
"""A shingle is common if more prompts contain it than both this number and `COMMON_SHARE` of all."""


def tokens(text: str) -> list[str]:
    """Words in lower case, numbers without separators of thousands, and single mathematical signs; layout commands are
    left out."""
    plain = LAYOUT.sub(" ", fold_compatible(text, MARKS)).lower()
    return TOKEN.findall(GROUPED_NUMBER.sub(lambda number: re.sub(r"\D", "", number[0]), plain))


def answer_tokens(reference: str) -> list[str]:
    """The tokens of an answer; without LaTeX also its braces and punctuation, which may be the whole answer."""
    return tokens(reference) if "\\" in reference else TOKEN_OR_MARK.findall(reference.lower())


def content(words: Sequence[str]) -> tuple[str, ...]:
    """The numbers and signs among the tokens, in order: problems that differ in one of them are different problems."""
    return tuple(word for word in words if not WORD.fullmatch(word))


def numbers(words: Sequence[str]) -> Counter[str]:
    """How often each number occurs among the tokens."""
    return Counter(word for word in words if NUMBER.match(word))


def ngrams(words: Sequence[str], size: int) -> Any:
    """[runs] uint64: hashes of every run of `size` tokens; of the whole text if it is shorter."""
    runs = (words[start : start + size] for start in range(max(1, len(words) - size + 1)))
    return np.fromiter((gram_hash(run) for run in runs if run), dtype=np.uint64)


def gram_hash(words: Sequence[str]) -> int:
    """A stable 64-bit hash of a run of tokens: the same on every machine."""
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest(), "little")


def count_shingles(problems: Iterable[Sequence[str]]) -> tuple[Any, Any]:
    """The buckets of the shingles of some problems, and the number of problems in each bucket.

    Args:
        problems: tokens of each.
    """
    buckets = [np.unique(_buckets(words)) for words in problems]
    return np.unique(np.concatenate(buckets), return_counts=True) if buckets else (np.array([], np.uint64),) * 2


def _buckets(words: Sequence[str]) -> Any:
    return ngrams(words, SHINGLE) % np.uint64(NUM_BUCKETS)


def common_shingles(counts: Any, num_prompts: int) -> Any:
    """[NUM_BUCKETS] bool: buckets whose shingles count as common wording."""
    return counts > max(COMMON_AT_LEAST, COMMON_SHARE * num_prompts)


def is_common(words: Sequence[str], common: Any) -> Any:
    """[shingles] bool: shingles of a problem that so many prompts share that they are wording of the task.

    Args:
        words: tokens of the problem.
        common: [NUM_BUCKETS] bool, from `common_shingles`.
    """
    return common[_buckets(words)]
