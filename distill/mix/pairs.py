"""Pairs of traces for arms that learn preferences: for each common prompt one trace that is chosen over another.

`verdict`: a correct trace over a wrong one. Wrong is INCORRECT or NO_ANSWER; what the verifier could not tell is never
rejected, and neither is what the token limit cut: the student would learn from a text without its end. `length`: the
shortest correct trace over the longest. Both sides pass the filters of [filters], each other's text excepted.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.config.mix import PairsMix
from distill.mix.candidates import NO_TRACE, Candidates, Pairs, selected
from distill.mix.seeded_order import contains, order_hash
from distill.mix.trace_index import TraceIndex

WITHOUT = {"verdict": "no wrong trace", "length": "correct traces of one length"}
"""Why a prompt has no pair, by what it was looked for by."""


class Sides(NamedTuple):
    """Which traces of the index may be which side of a pair."""

    is_right: NDArray[np.bool_]
    """Correct, and may be taught."""
    is_wrong: NDArray[np.bool_]
    """Wrong, and may be rejected."""


def find_pairs(mix: PairsMix, index: TraceIndex, sides: Sides, candidates: Candidates, seed: int) -> Pairs:
    """The pair of every common prompt, by the first criterion of `by` that finds one."""
    codes = index.pool_codes(mix.pools)
    is_ours = (codes >= 0) & (sides.is_right | sides.is_wrong) & contains(candidates.prompt_keys, index.prompt_keys)
    rows = np.flatnonzero(is_ours)
    prompts = np.searchsorted(candidates.prompt_keys, index.prompt_keys[rows])
    ranks = order_hash(index.trace_keys[rows], "candidate", seed)
    found = np.full((len(candidates), 2), NO_TRACE, dtype=np.int64)
    for criterion in mix.by:
        pairs = (
            _by_verdict(rows, prompts, ranks, sides, len(candidates))
            if criterion == "verdict"
            else _by_length(rows, prompts, ranks, index.tokens[rows], sides, len(candidates))
        )
        is_new = (found == NO_TRACE).all(axis=1) & (pairs != NO_TRACE).all(axis=1)
        found[is_new] = pairs[is_new]
    pools = np.where(found == NO_TRACE, -1, index.pool_codes(candidates.pools)[found].astype(np.int64))
    return Pairs(found, pools)


def _by_verdict(
    rows: NDArray[np.int64], prompts: NDArray[np.int64], ranks: NDArray[np.uint64], sides: Sides, num_prompts: int
) -> NDArray[np.int64]:
    """[prompts, 2]: the first correct and the first wrong trace of each, NO_TRACE where there is none."""
    columns = []
    for is_side in (sides.is_right, sides.is_wrong):
        mine = is_side[rows]
        columns.append(selected(rows[mine], prompts[mine], ranks[mine], num_prompts))
    return np.stack(columns, axis=1)


def _by_length(
    rows: NDArray[np.int64],
    prompts: NDArray[np.int64],
    ranks: NDArray[np.uint64],
    tokens: NDArray[np.int32],
    sides: Sides,
    num_prompts: int,
) -> NDArray[np.int64]:
    """[prompts, 2]: the shortest and the longest correct trace of each, NO_TRACE where they are equally long."""
    mine = np.flatnonzero(sides.is_right[rows])
    found = np.full((num_prompts, 2), NO_TRACE, dtype=np.int64)
    lengths = np.zeros((num_prompts, 2), dtype=np.int64)
    for side, sign in enumerate((1, -1)):
        order = mine[np.lexsort((ranks[mine], sign * tokens[mine].astype(np.int64), prompts[mine]))]
        first = order[np.unique(prompts[order], return_index=True)[1]]
        found[prompts[first], side], lengths[prompts[first], side] = rows[first], tokens[first]
    found[lengths[:, 0] == lengths[:, 1]] = NO_TRACE
    return found


def pair_details(mix: PairsMix, pairs: Pairs, index: TraceIndex) -> dict[str, Any]:
    """The manifest's entry of an arm's pairs: how many, their mean lengths (tokens), and why prompts have none.

    `pairs`: of the prompts that the arm may teach.
    """
    has_pair = pairs.has_pair
    lengths = index.tokens[pairs.rows[has_pair]]
    missing = int((~has_pair).sum())
    return {
        "pairs": int(has_pair.sum()),
        "chosen_tokens": float(lengths[:, 0].mean()),
        "rejected_tokens": float(lengths[:, 1].mean()),
        "without_pair": {" and ".join(WITHOUT[one] for one in mix.by): missing} if missing else {},
    }
