"""Training prompts that are a benchmark's problem in almost the same words: nothing may be learnt from the exam.

A run of tokens in common raises the suspicion (13 in GPT-3's appendix C); wording that many training prompts share
belongs to the task and raises none, or no set could be trained on that has a template in common with its benchmark. Two
problems under suspicion are the same if what they share covers half of the shorter one, and all numbers of one stand
in the other: closing words ("where m and n are relatively prime") and a story with other numbers leave a prompt in.
The code of a figure is no evidence. A problem that is a benchmark's as a whole, punctuation and case aside, always is.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from distill.core.schema import AnswerKind, Prompt
from distill.prompts.ngrams import SHINGLE, gram_hash, is_wording, ngrams, numbers, tokens

WHOLE = "whole"
"""Set before a whole problem's tokens, so that its hash is never that of a run inside a longer one."""
FIGURE = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
"""Asymptote code as MATH has it: its coordinates and colours are alike everywhere."""


class Match(NamedTuple):
    """A training prompt, the benchmark's problem that it is, and the first run of tokens that they share."""

    prompt: Prompt
    benchmark: str
    problem: Prompt
    run: str


class ExamProblems(NamedTuple):
    """The benchmarks' problems, and where each of their n-grams stands."""

    problems: list[tuple[str, Prompt]]
    """(benchmark, problem), by name and identity."""
    places: dict[int, list[int]]
    """n-gram or whole problem -> positions in `problems`."""


def exam_problems(benchmarks: Mapping[str, Iterable[Prompt]], size: int) -> ExamProblems:
    """All problems of the benchmarks by their n-grams of `size` tokens."""
    problems = [
        (name, prompt)
        for name in sorted(benchmarks)
        for prompt in sorted(benchmarks[name], key=lambda one: one.prompt_id)
    ]
    places: dict[int, list[int]] = defaultdict(list)
    for place, (_, prompt) in enumerate(problems):
        for gram in np.unique(_evidence(prompt.problem, size)).tolist():
            places[gram].append(place)
    return ExamProblems(problems, dict(places))


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


def find_hits(problem: str, grams: Any, common: Any, size: int) -> Any:
    """[hits] uint64: the n-grams of a problem that a benchmark holds and that are no wording of the task.

    Args:
        problem: text.
        grams: [grams] uint64, ascending: all n-grams of the benchmarks.
        common: [NUM_BUCKETS] bool, from `common_shingles`.
        size: tokens per n-gram.
    """
    evidence = _evidence(problem, size)
    place = np.minimum(np.searchsorted(grams, evidence), len(grams) - 1)
    is_hit = grams[place] == evidence
    if len(evidence) > 1 and is_hit.any():
        is_hit[1:] &= _is_telling(without_figures(problem), common, size)
    return np.unique(evidence[is_hit])


def find_match(prompt: Prompt, hits: Iterable[int], exam: ExamProblems, size: int) -> Match | None:
    """The first benchmark problem behind some hits that says the same as the prompt, if any does."""
    for place in sorted({place for hit in hits for place in exam.places[hit]}):
        benchmark, problem = exam.problems[place]
        if not _differ_by_answer(prompt, problem) and (run := shared_run(prompt.problem, problem.problem, size)):
            return Match(prompt, benchmark, problem, " ".join(run))
    return None


def _differ_by_answer(one: Prompt, other: Prompt) -> bool:
    """Generated problems write equal answers alike, and their wording is their task's; people do not."""
    are_generated = one.answer_kind == other.answer_kind == AnswerKind.REASONING_GYM
    return are_generated and one.reference != other.reference


def shared_run(problem: str, other: str, size: int) -> list[str]:
    """The first run of tokens that two problems share, all where they are equal; empty where they are two problems."""
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
    """Whether the numbers of one problem all stand in the other, as often."""
    return some <= others or others <= some
