"""Near-duplicate prompts: MinHash signatures in LSH bands (Broder, 1997), then an exact comparison.

Two prompts are compared by their distinctive shingles: common ones, which many prompts share, are wording of a task and
do not count. Which of two is kept follows from their prompt_id alone, so neither the order of the input nor the way it
is cut into blocks changes the result.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distill.core.schema import Prompt
from distill.prompts.ngrams import SHINGLE, answer_tokens, content, gram_hash, is_common, ngrams, tokens

NUM_BANDS, BAND_ROWS = 16, 4
"""Prompts that share 80 % of their shingles collide in some band with 99.98 % probability, at 50 % with 64 %."""

_DRAW = np.random.default_rng(20250212)
MULTIPLIERS = _DRAW.integers(1, 2**63, size=NUM_BANDS * BAND_ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
OFFSETS = _DRAW.integers(0, 2**63, size=NUM_BANDS * BAND_ROWS, dtype=np.uint64)


class PromptShingles(NamedTuple):
    """A prompt in the form in which two are compared."""

    content: int
    """Hash of its numbers, mathematical signs and answer; different for different problems."""
    shingles: Any
    """[shingles] uint64: hashes of its distinctive shingles."""


class Duplicate(NamedTuple):
    """A near-duplicate, the prompt that is kept, and the Jaccard similarity of their distinctive shingles."""

    prompt: Prompt
    kept: Prompt
    similarity: float


def distinctive_shingles(problem: str, reference: str, common: Any) -> PromptShingles:
    """A prompt's shingles without the common ones. If all are common, the hash of the whole problem is its only one.

    Args:
        problem: text.
        reference: its answer; problems with different answers are different problems.
        common: [NUM_BUCKETS] bool, from `common_shingles`.
    """
    words = tokens(problem)
    distinctive = np.unique(ngrams(words, SHINGLE)[~is_common(words, common)])
    whole = np.array([gram_hash(words)], dtype=np.uint64)
    key = gram_hash([*content(words), "=>", *answer_tokens(reference)])
    return PromptShingles(key, distinctive if len(distinctive) else whole)


def signature(prompt: PromptShingles) -> Any:
    """[bands] uint64: the MinHash values of each band folded into one hash, together with the content.

    Prompts of different content never collide, so a set made from one template costs no pairwise comparison.
    """
    smallest = (prompt.shingles[:, None] * MULTIPLIERS + OFFSETS).min(axis=0)
    folded = np.full(NUM_BANDS, prompt.content, dtype=np.uint64)
    for column in smallest.reshape(NUM_BANDS, BAND_ROWS).T:
        folded = folded * np.uint64(0x9E3779B97F4A7C15) ^ column
    return folded


def similarity(one: PromptShingles, other: PromptShingles) -> float:
    """Jaccard similarity of the distinctive shingles; 0 if numbers, signs or answers differ."""
    if one.content != other.content:
        return 0.0
    shared = len(np.intersect1d(one.shingles, other.shingles, assume_unique=True))
    return shared / (len(one.shingles) + len(other.shingles) - shared)


def collides(signatures: Any) -> Any:
    """[prompts] bool: prompts that share a band with another one. Only these are ever compared.

    Args:
        signatures: [prompts, bands] uint64.
    """
    collision = np.zeros(len(signatures), dtype=bool)
    for band in signatures.T:
        _, which, counts = np.unique(band, return_inverse=True, return_counts=True)
        collision |= counts[which] > 1
    return collision


def find_near_duplicates(prompts: Sequence[Prompt], signatures: Any, common: Any, threshold: float) -> list[Duplicate]:
    """Prompts with a similarity of at least `threshold` to a kept one. Of two, the smaller prompt_id is kept.

    Args:
        prompts: all prompts, in any order.
        signatures: [prompts, bands] uint64: the `signature` of each.
        common: [NUM_BUCKETS] bool, from `common_shingles`.
        threshold: Jaccard similarity, 0 to 1.
    """
    kept: dict[tuple[int, int], list[tuple[Prompt, PromptShingles]]] = defaultdict(list)
    found = []
    for row in sorted(np.flatnonzero(collides(signatures)), key=lambda row: prompts[row].prompt_id):
        prompt, keys = prompts[row], list(enumerate(signatures[row].tolist()))
        shingles = distinctive_shingles(prompt.problem, prompt.reference, common)
        others = {other.prompt_id: (other, its) for key in keys for other, its in kept[key]}
        best = _most_similar(prompt, shingles, others.values())
        if best is not None and best.similarity >= threshold:
            found.append(best)
            continue
        for key in keys:
            kept[key].append((prompt, shingles))
    return found


def _most_similar(
    prompt: Prompt, shingles: PromptShingles, others: Iterable[tuple[Prompt, PromptShingles]]
) -> Duplicate | None:
    compared = [Duplicate(prompt, other, similarity(shingles, its)) for other, its in others]
    return max(compared, key=lambda one: (one.similarity, one.kept.prompt_id), default=None)
