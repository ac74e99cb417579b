"""Decontamination: finds training prompts that repeat a benchmark problem in almost the same words.

A shared n-gram makes two problems candidates (n = 13 as in GPT-3's appendix C). Common wording, i.e. what many training
prompts share, does not count: else no set could be used whose template also occurs in the benchmark. Candidates are the
same problem if the shared n-grams cover half of the shorter one and all numbers of one occur in the other, so closing
phrases ("where m and n are relatively prime") and a story with other numbers do not drop a prompt. The code of figures
is ignored. Problems that are equal as a whole, apart from punctuation and case, always match.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from distill.core.schema import AnswerKind, Prompt
from distill.prompts.ngrams import SHINGLE, gram_hash, is_common, ngrams, numbers, tokens

WHOLE = "whole"
"""Prefix of a whole problem's tokens, so that its hash differs from that of an n-gram in a longer problem."""
FIGURE = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
"""Asymptote code, as in MATH: its coordinates and colours are similar in all problems."""


class Match(NamedTuple):
    """A training prompt, the benchmark problem that it repeats, and the first run of tokens that they share."""

    prompt: Prompt
    benchmark: str
    problem: Prompt
    run: str


class BenchmarkIndex(NamedTuple):
    """All benchmark problems, and an inverted index of their n-grams."""

    problems: list[tuple[str, Prompt]]
    """(benchmark, problem), ordered by name and prompt_id."""
    positions: dict[int, list[int]]
    """Hash of an n-gram or whole problem -> positions in `problems`."""


def index_benchmarks(benchmarks: Mapping[str, Iterable[Prompt]], size: int) -> BenchmarkIndex:
    """Index the problems of the benchmarks by their n-grams of `size` tokens."""
    problems = [
        (name, prompt)
        for name in sorted(benchmarks)
        for prompt in sorted(benchmarks[name], key=lambda one: one.prompt_id)
    ]
    positions: dict[int, list[int]] = defaultdict(list)
    for position, (_, prompt) in enumerate(problems):
        for gram in np.unique(_evidence(prompt.problem, size)).tolist():
            positions[gram].append(position)
    return BenchmarkIndex(problems, dict(positions))


def _evidence(problem: str, size: int) -> Any:
    """[1 + runs] uint64: the hash of the whole problem, then of its n-grams if it is long enough to have any."""
    whole, words = np.array([_whole(problem)], dtype=np.uint64), without_figures(problem)
    return np.concatenate([whole, ngrams(words, size)]) if len(words) >= size else whole


def _whole(problem: str) -> int:
    return gram_hash([WHOLE, *tokens(problem)])


def without_figures(problem: str) -> list[str]:
    """The tokens of a problem without its figures."""
    return tokens(FIGURE.sub(" ", problem))


def _is_distinctive(words: list[str], common: Any, size: int) -> Any:
    """[runs] bool: n-grams of which more than half of the tokens are outside common wording."""
    shingles = is_common(words, common)
    in_wording = np.convolve(shingles, np.ones(min(SHINGLE, len(words)), dtype=np.int64)) > 0
    return np.convolve(in_wording, np.ones(size, dtype=np.int64), mode="valid") * 2 < size


def find_hits(problem: str, grams: Any, common: Any, size: int) -> Any:
    """[hits] uint64: the n-grams of a problem that a benchmark contains and that are not common wording.

    Args:
        problem: text.
        grams: [grams] uint64, ascending: all n-grams of the benchmarks.
        common: [NUM_BUCKETS] bool, from `common_shingles`.
        size: tokens per n-gram.
    """
    evidence = _evidence(problem, size)
    position = np.minimum(np.searchsorted(grams, evidence), len(grams) - 1)
    is_hit = grams[position] == evidence
    if len(evidence) > 1 and is_hit.any():
        is_hit[1:] &= _is_distinctive(without_figures(problem), common, size)
    return np.unique(evidence[is_hit])


def find_match(prompt: Prompt, hits: Iterable[int], index: BenchmarkIndex, size: int) -> Match | None:
    """The first benchmark problem behind the hits that is the same problem as the prompt, or None."""
    for position in sorted({position for hit in hits for position in index.positions[hit]}):
        benchmark, problem = index.problems[position]
        if not _differ_by_answer(prompt, problem) and (run := shared_run(prompt.problem, problem.problem, size)):
            return Match(prompt, benchmark, problem, " ".join(run))
    return None


def _differ_by_answer(one: Prompt, other: Prompt) -> bool:
    """Whether the answers show two problems: generated problems only, where equal answers are written alike."""
    are_generated = one.answer_kind == other.answer_kind == AnswerKind.REASONING_GYM
    return are_generated and one.reference != other.reference


def shared_run(problem: str, other: str, size: int) -> list[str]:
    """The first run of tokens that two problems share, all tokens if they are equal; empty for different problems."""
    if _whole(problem) == _whole(other):
        return tokens(problem)
    words, others = without_figures(problem), without_figures(other)
    if min(len(words), len(others)) < size or not _share_numbers(numbers(words), numbers(others)):
        return []
    is_shared = np.isin(ngrams(words, size), ngrams(others, size))
    num_covered = (np.convolve(is_shared, np.ones(size, dtype=np.int64)) > 0).sum()
    start = int(is_shared.argmax())
    return words[start : start + size] if num_covered * 2 >= min(len(words), len(others)) else []


def _share_numbers(some: Counter[str], others: Counter[str]) -> bool:
    """Whether all numbers of one problem occur in the other, at least as often."""
    return some <= others or others <= some
