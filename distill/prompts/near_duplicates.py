"""Prompts that say the same in almost the same words: MinHash signatures in bands (LSH), then an exact comparison.

Broder (1997) for the signatures. Two prompts are compared by what sets them apart from the others: shingles that
many prompts share are wording of a task and do not count. Which of two is kept follows from their identities alone, so
neither the order of the input nor the way it is cut into blocks changes the result.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distill.core.schema import Prompt
from distill.prompts.ngrams import SHINGLE, answer_tokens, content, gram_hash, is_wording, ngrams, tokens

NUM_BANDS, BAND_ROWS = 16, 4
"""Prompts that share 80 % of their shingles meet in some band with 99.98 % probability, at 50 % with 64 %."""

_DRAW = np.random.default_rng(20250212)
MULTIPLIERS = _DRAW.integers(1, 2**63, size=NUM_BANDS * BAND_ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
OFFSETS = _DRAW.integers(0, 2**63, size=NUM_BANDS * BAND_ROWS, dtype=np.uint64)


class Told(NamedTuple):
    """What a prompt says: its content (numbers, signs, answer), and its telling shingles."""

    key: int
    shingles: Any


class NearDuplicate(NamedTuple):
    """A prompt that goes, the one that stays, and how alike their telling shingles are (Jaccard)."""

    prompt: Prompt
    kept: Prompt
    similarity: float


def tell(problem: str, reference: str, common: Any) -> Told:
    """A problem as it is compared. One that is wording throughout is told by the whole of its tokens.

    Args:
        problem: text.
        reference: its answer; problems with other answers are other problems.
        common: [NUM_BUCKETS] bool, from `common_shingles`.
    """
    words = tokens(problem)
    telling = np.unique(ngrams(words, SHINGLE)[~is_wording(words, common)])
    whole = np.array([gram_hash(words)], dtype=np.uint64)
    key = gram_hash([*content(words), "=>", *answer_tokens(reference)])
    return Told(key, telling if len(telling) else whole)


def signature(told: Told) -> Any:
    """[bands] uint64: MinHash values of the shingles, those of a band folded into one, and the content into each.

    Prompts of different content never meet, so a set made from one template costs no pairwise comparison.
    """
    smallest = (told.shingles[:, None] * MULTIPLIERS + OFFSETS).min(axis=0)
    folded = np.full(NUM_BANDS, told.key, dtype=np.uint64)
    for column in smallest.reshape(NUM_BANDS, BAND_ROWS).T:
        folded = folded * np.uint64(0x9E3779B97F4A7C15) ^ column
    return folded


def similarity(one: Told, other: Told) -> float:
    """Jaccard similarity of telling shingles; 0 where numbers, signs or answers differ."""
    if one.key != other.key:
        return 0.0
    shared = len(np.intersect1d(one.shingles, other.shingles, assume_unique=True))
    return shared / (len(one.shingles) + len(other.shingles) - shared)


def meeting(signatures: Any) -> Any:
    """[prompts] bool: which prompts share a band with another one. Only these are ever compared.

    Args:
        signatures: [prompts, bands] uint64.
    """
    meets = np.zeros(len(signatures), dtype=bool)
    for band in signatures.T:
        _, which, counts = np.unique(band, return_inverse=True, return_counts=True)
        meets |= counts[which] > 1
    return meets


def find_near_duplicates(
    prompts: Sequence[Prompt], signatures: Any, common: Any, threshold: float
) -> list[NearDuplicate]:
    """Prompts that are at least `threshold` alike to one that stays, which is the one of smaller identity.

    Args:
        prompts: all prompts, in any order.
        signatures: [prompts, bands] uint64: the `signature` of each.
        common: [NUM_BUCKETS] bool, from `common_shingles`.
        threshold: Jaccard similarity, 0 to 1.
    """
    kept: dict[tuple[int, int], list[tuple[Prompt, Told]]] = defaultdict(list)
    found = []
    for row in sorted(np.flatnonzero(meeting(signatures)), key=lambda row: prompts[row].prompt_id):
        prompt, keys = prompts[row], list(enumerate(signatures[row].tolist()))
        told = tell(prompt.problem, prompt.reference, common)
        others = {other.prompt_id: (other, its) for key in keys for other, its in kept[key]}
        best = _most_alike(prompt, told, others.values())
        if best is not None and best.similarity >= threshold:
            found.append(best)
            continue
        for key in keys:
            kept[key].append((prompt, told))
    return found


def _most_alike(prompt: Prompt, told: Told, others: Iterable[tuple[Prompt, Told]]) -> NearDuplicate | None:
    compared = [NearDuplicate(prompt, other, similarity(told, its)) for other, its in others]
    return max(compared, key=lambda one: (one.similarity, one.kept.prompt_id), default=None)
