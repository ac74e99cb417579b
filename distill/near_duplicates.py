"""Prompts that say the same in almost the same words: MinHash signatures in bands (LSH), then an exact comparison.

Broder (1997) for the signatures. Which of two is kept follows from their identities alone, so neither the order of the
input nor the way it is cut into blocks changes the result.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distill.ngrams import ngrams, numbers, tokens
from distill.schema import Prompt

SHINGLE = 3
"""Tokens per shingle: short enough for problems of one line."""
NUM_BANDS, BAND_ROWS = 16, 4
"""Prompts that share 80 % of their shingles meet in some band with 99.98 % probability, at 50 % with 64 %."""

_DRAW = np.random.default_rng(20250212)
MULTIPLIERS = _DRAW.integers(1, 2**63, size=NUM_BANDS * BAND_ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
OFFSETS = _DRAW.integers(0, 2**63, size=NUM_BANDS * BAND_ROWS, dtype=np.uint64)


class NearDuplicate(NamedTuple):
    """A prompt that goes, the one that stays, and how alike their shingles are (Jaccard)."""

    prompt: Prompt
    kept: Prompt
    similarity: float


def signature(text: str) -> Any:
    """[bands] uint64: MinHash values of a text's shingles, those of a band folded into one."""
    shingles = np.array(ngrams(tokens(text), SHINGLE) or [0], dtype=np.uint64)
    smallest = (shingles[:, None] * MULTIPLIERS + OFFSETS).min(axis=0)
    bands = smallest.reshape(NUM_BANDS, BAND_ROWS)
    folded = bands[:, 0].copy()
    for column in range(1, BAND_ROWS):
        folded = folded * np.uint64(0x9E3779B97F4A7C15) ^ bands[:, column]
    return folded


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of two texts' shingles; 0 where their numbers differ."""
    one, two = tokens(first), tokens(second)
    if numbers(one) != numbers(two):
        return 0.0
    mine, other = set(ngrams(one, SHINGLE)), set(ngrams(two, SHINGLE))
    return len(mine & other) / max(1, len(mine | other))


def find_near_duplicates(
    prompts: Sequence[Prompt], signatures: Mapping[str, Any], threshold: float
) -> list[NearDuplicate]:
    """Prompts that are at least `threshold` alike to one that stays, which is the one of smaller identity.

    Args:
        prompts: all prompts, in any order.
        signatures: prompt id -> `signature` of its problem.
        threshold: Jaccard similarity, 0 to 1.
    """
    kept: dict[tuple[int, int], list[Prompt]] = defaultdict(list)
    found = []
    for prompt in sorted(prompts, key=lambda one: one.prompt_id):
        keys = [(band, int(value)) for band, value in enumerate(signatures[prompt.prompt_id])]
        others = {other.prompt_id: other for key in keys for other in kept.get(key, ())}
        best = _most_alike(prompt, list(others.values()))
        if best is not None and best.similarity >= threshold:
            found.append(best)
            continue
        for key in keys:
            kept[key].append(prompt)
    return found


def _most_alike(prompt: Prompt, others: Sequence[Prompt]) -> NearDuplicate | None:
    compared = [NearDuplicate(prompt, other, similarity(prompt.problem, other.problem)) for other in others]
    return max(compared, key=lambda one: (one.similarity, one.kept.prompt_id), default=None)
