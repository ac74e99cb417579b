"""Training prompts that share a long run of words with a benchmark problem: nothing may be learnt from the exam.

The n-gram rule in common use (13 tokens in GPT-3's appendix C). Wording that many training prompts share, such as a
task's instruction, belongs to the task and is no evidence.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from distill.ngrams import gram_hash, ngrams, tokens
from distill.schema import Prompt

COMMON_SHARE = 0.01
COMMON_AT_LEAST = 20
"""A run in more training prompts than both of these say is wording of the task."""


class Source(NamedTuple):
    """Where a benchmark's n-gram comes from."""

    benchmark: str
    prompt_id: str


class Match(NamedTuple):
    """A training prompt and the benchmark problem that it shares a run of tokens with."""

    prompt_id: str
    source: Source
    run: str


def benchmark_ngrams(benchmarks: Mapping[str, Iterable[Prompt]], size: int) -> dict[int, Source]:
    """n-gram -> the benchmark problem that holds it (the first by name and identity)."""
    grams: dict[int, Source] = {}
    for name in sorted(benchmarks):
        for prompt in sorted(benchmarks[name], key=lambda one: one.prompt_id):
            for gram in ngrams(tokens(prompt.problem), size):
                grams.setdefault(gram, Source(name, prompt.prompt_id))
    return grams


def hits(text: str, grams: Mapping[int, Source], size: int) -> list[int]:
    """The n-grams of a problem that some benchmark holds, each once."""
    return [gram for gram in dict.fromkeys(ngrams(tokens(text), size)) if gram in grams]


def find_contaminated(
    prompts: Sequence[Prompt], found: Mapping[str, Sequence[int]], grams: Mapping[int, Source], size: int
) -> list[Match]:
    """Prompts with a telling n-gram of a benchmark, in the order given.

    Args:
        prompts: the training prompts.
        found: prompt id -> its `hits`.
        grams: `benchmark_ngrams`.
        size: tokens per n-gram.
    """
    frequency = Counter(gram for mine in found.values() for gram in mine)
    limit = max(COMMON_AT_LEAST, COMMON_SHARE * len(prompts))
    matches = []
    for prompt in prompts:
        telling = [gram for gram in found.get(prompt.prompt_id, ()) if frequency[gram] <= limit]
        if telling:
            matches.append(Match(prompt.prompt_id, grams[telling[0]], _run_of(prompt.problem, telling[0], size)))
    return matches


def _run_of(text: str, gram: int, size: int) -> str:
    words = tokens(text)
    if len(words) <= size:
        return " ".join(words)
    runs = (words[start : start + size] for start in range(len(words) - size + 1))
    return next((" ".join(run) for run in runs if gram_hash(run) == gram), "")
