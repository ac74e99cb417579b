"""Training prompts that share a long run of words with a benchmark problem: nothing may be learnt from the exam.

The n-gram rule in common use (13 tokens in GPT-3's appendix C). Wording that many training prompts share, with whatever
numbers, belongs to the task: a run that is half wording is no evidence, or no set could be trained on that has a
template in common with its benchmark. The code of a figure is none either. A problem that is a benchmark's as a whole,
punctuation and case aside, always is.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from distill.ngrams import SHINGLE, gram_hash, is_wording, ngrams, tokens
from distill.schema import Prompt

WHOLE = "whole"
"""Set before a whole problem's tokens, so that its hash is never that of a run inside a longer one."""
FIGURE = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
"""Asymptote code as MATH has it: its coordinates and colours are alike everywhere."""


class Source(NamedTuple):
    """Where a benchmark's n-gram comes from."""

    benchmark: str
    prompt_id: str


class Match(NamedTuple):
    """A training prompt and the benchmark problem that it shares a run of tokens with."""

    prompt: Prompt
    source: Source
    run: str


def benchmark_ngrams(benchmarks: Mapping[str, Iterable[Prompt]], size: int) -> dict[int, Source]:
    """n-gram or whole problem -> the benchmark problem that holds it (the first by name and identity)."""
    grams: dict[int, Source] = {}
    for name in sorted(benchmarks):
        for prompt in sorted(benchmarks[name], key=lambda one: one.prompt_id):
            for gram in _evidence(prompt.problem, size).tolist():
                grams.setdefault(gram, Source(name, prompt.prompt_id))
    return grams


def _evidence(problem: str, size: int) -> Any:
    """[1 + runs] uint64: the whole, then every run of a problem that is long enough to have any."""
    whole, words = np.array([_whole(problem)], dtype=np.uint64), without_figures(problem)
    return np.concatenate([whole, ngrams(words, size)]) if len(words) >= size else whole


def _whole(problem: str) -> int:
    return gram_hash([WHOLE, *tokens(problem)])


def without_figures(problem: str) -> list[str]:
    """The tokens of a problem without its figures."""
    return tokens(FIGURE.sub(" ", problem))


def _is_telling(words: list[str], common: Any, size: int) -> Any:
    """[runs] bool: which runs are more than half made of tokens outside the task's wording."""
    shingles = is_wording(words, common)
    in_wording = np.convolve(shingles, np.ones(min(SHINGLE, len(words)), dtype=np.int64)) > 0
    return np.convolve(in_wording, np.ones(size, dtype=np.int64), mode="valid") * 2 < size


def find_hit(problem: str, grams: Any, common: Any, size: int) -> int | None:
    """The first n-gram of a problem that a benchmark holds and that is no wording of the task.

    Args:
        problem: text.
        grams: [grams] uint64, ascending: the keys of `benchmark_ngrams`.
        common: [NUM_BUCKETS] bool, from `common_shingles`.
        size: tokens per n-gram.
    """
    evidence = _evidence(problem, size)
    place = np.minimum(np.searchsorted(grams, evidence), len(grams) - 1)
    is_hit = grams[place] == evidence
    if len(evidence) > 1 and is_hit.any():
        is_hit[1:] &= _is_telling(without_figures(problem), common, size)
    return int(evidence[is_hit.argmax()]) if is_hit.any() else None


def to_match(prompt: Prompt, hit: int, grams: Mapping[int, Source], size: int) -> Match:
    """What a hit was, for the audit: the benchmark problem and the run in words."""
    words = without_figures(prompt.problem)
    runs = (words[start : start + size] for start in range(len(words) - size + 1))
    is_whole = _whole(prompt.problem) == hit
    found = tokens(prompt.problem) if is_whole else next(run for run in runs if gram_hash(run) == hit)
    return Match(prompt, grams[hit], " ".join(found))
