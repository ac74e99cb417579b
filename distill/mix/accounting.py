"""What the mix stage's manifest records: rows and shares of every arm, and why prompts are in none."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distill.config.decides import identity
from distill.config.mix import MixConfig, WeightedTokensMix
from distill.core.schema import Dropped, Style, arrow_schema, content_hash
from distill.mix.candidates import Candidates
from distill.mix.choice import Choice
from distill.mix.filters import USABLE
from distill.mix.seeded_order import contains, identities_of
from distill.mix.trace_index import TraceIndex

UNSOLVED = "not solved by every pool"
FILTERED = "filtered out in a pool"
RESERVED = "held out"
"""Not taught, to measure the loss on: `train.held_out_prompts`."""
WITHOUT_PAIR = "without a pair"
"""Common, and no arm has a row or a pair for it."""
SURPLUS = "more than any arm teaches"
"""Common, and beyond the `num_prompts` of every arm."""
NO_SOURCE = "of a source that no arm teaches"


def mix_details(mix: MixConfig, choice: Choice, candidates: Candidates, index: TraceIndex) -> dict[str, Any]:
    """The manifest's entry of an arm: rows, tokens and shares by both.

    Tokens are those of the completions, counted by the first student's tokenizer. `digest` identifies the rows, how
    they are asked for and the order in which they are taught: arms with equal digests are the same data.
    """
    rows, sources = choice.rows(candidates), choice.sources(candidates)
    lengths = index.tokens[rows].astype(np.int64)
    by_rows = _shares(sources, np.ones(len(rows)), candidates.pools)
    by_tokens = _shares(sources, lengths, candidates.pools)
    long = [pool for pool in candidates.pools if index.styles.get(pool) == Style.LONG]
    num_prompts = len(np.unique(choice.prompts))
    shown = [pool for pool in candidates.pools if pool in mix.shares or by_rows[pool] > 0]
    return {
        "policy": mix.policy,
        "prompts": num_prompts,
        "rows": len(rows),
        "rows_per_prompt": len(rows) / num_prompts,
        "tokens": int(lengths.sum()),
        "mean_tokens": float(lengths.mean()),
        "requested": mix.shares,
        "requested_by": "tokens" if isinstance(mix, WeightedTokensMix) else "rows",
        "realised_rows": {pool: by_rows[pool] for pool in shown},
        "realised_tokens": {pool: by_tokens[pool] for pool in shown},
        "long_rows": sum(by_rows[pool] for pool in long),
        "long_tokens": sum(by_tokens[pool] for pool in long),
        "routed": int((sources != choice.pools).sum()),
        "counts": {pool: int((sources == code).sum()) for code, pool in enumerate(candidates.pools) if pool in shown},
        "digest": _digest(mix, index.trace_keys[rows], choice.phases, index.given[rows]),
        **({"modes": _by_mode(mix, candidates, index, sources, lengths)} if mix.modes else {}),
    }


def _by_mode(
    mix: MixConfig,
    candidates: Candidates,
    index: TraceIndex,
    sources: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> dict[str, dict[str, Any]]:
    """Style -> rows and tokens of each mode of an arm, and how it is asked for."""
    styles = np.array([index.styles.get(pool, "") for pool in candidates.pools])[sources]
    return {
        str(style): {
            **identity(mode),
            "rows": int((styles == style).sum()),
            "tokens": int(lengths[styles == style].sum()),
        }
        for style, mode in mix.modes.items()
    }


def _shares(sources: NDArray[np.int64], amounts: NDArray[Any], pools: tuple[str, ...]) -> dict[str, float]:
    sums = np.bincount(sources, weights=amounts, minlength=len(pools))
    return dict(zip(pools, (sums / sums.sum()).tolist(), strict=True))


def _digest(mix: MixConfig, trace_keys: NDArray[np.uint64], phases: NDArray[np.int64], given: NDArray[np.int32]) -> str:
    columns: list[NDArray[Any]] = [trace_keys, phases, *([given] if given.any() else [])]
    stacked = np.stack([column.astype("<u8") for column in columns], axis=1)
    modes = {str(style): identity(mode) for style, mode in mix.modes.items()}
    asked = content_hash("modes", modes, mix.modes_in).encode() if modes else b""
    return hashlib.sha256(np.ascontiguousarray(stacked).tobytes() + asked).hexdigest()


def equal_arms(details: Mapping[str, Mapping[str, Any]]) -> str:
    """What all arms have in common, in a sentence; it names arms with more rows (`both`) and those with pairs."""
    single = {name: entry for name, entry in details.items() if "pairs" not in entry}
    pairs = [f"{name} has a pair for {entry['pairs']} prompts" for name, entry in details.items() if "pairs" in entry]
    if not single:
        return "; ".join(pairs)
    sizes = sorted({entry["prompts"] for entry in single.values()})
    same = f"every arm teaches the same {sizes[0]} prompts"
    if len(sizes) > 1:
        listed = ", ".join(map(str, sizes))
        same = f"arms of one size teach the same prompts, those of a smaller one are among those of a larger ({listed})"
    wide = [f"{name} has {entry['rows']} rows" for name, entry in single.items() if entry["rows"] != entry["prompts"]]
    rows = (
        "one row each"
        if not wide
        else f"one row each, but {', '.join(wide)}, which are more steps with the budget epochs only"
    )
    of_these = [f"; of these prompts {', '.join(pairs)}"] if pairs else []
    return "".join([f"{same}, {rows}", *of_these])


class LostPrompts(NamedTuple):
    """Prompts that no arm teaches: rows of `Dropped`, and counts by reason."""

    table: pa.Table
    counts: dict[str, int]


def lost_prompts(
    prompt_keys: NDArray[np.uint64],
    candidates: Candidates,
    index: TraceIndex,
    reasons: NDArray[np.int8],
    *,
    taught: NDArray[np.uint64],
    held_out: NDArray[np.uint64],
) -> LostPrompts:
    """The prompts that no arm teaches, each with its reason and the pools that lack a usable trace.

    Args:
        prompt_keys: all prompts that a group of arms might teach.
        candidates: the prompts that the arms may teach.
        index: all verified traces.
        reasons: why each trace is left out, or `USABLE`.
        taught: those that any arm teaches, sorted.
        held_out: the common prompts that are held out, sorted.
    """
    lost = np.setdiff1d(prompt_keys, taught)
    has_usable = _pools_with(lost, candidates.pools, index, reasons == USABLE)
    is_right = index.is_correct() & ~index.is_cut & (index.drops == 0)
    has_correct = _pools_with(lost, candidates.pools, index, is_right)
    is_filtered = (has_usable | has_correct).all(axis=1)
    is_common = contains(candidates.prompt_keys, lost)
    is_unpaired = contains(candidates.prompt_keys[candidates.unpaired], lost)
    codes = np.select([is_unpaired, is_common, contains(held_out, lost), is_filtered], [4, 3, 2, 1], 0)
    names = np.array([UNSOLVED, FILTERED, RESERVED, SURPLUS, WITHOUT_PAIR])
    lacking, patterns = np.unique(~has_usable, axis=0, return_inverse=True)
    details = [", ".join(pool for pool, lacks in zip(candidates.pools, row, strict=True) if lacks) for row in lacking]
    return _lost(lost, names[codes].tolist(), pa.array(details, pa.string()).take(pa.array(patterns.ravel())))


def unasked_prompts(lost: NDArray[np.uint64]) -> LostPrompts:
    """Prompts of sources that no arm teaches."""
    return _lost(lost, [NO_SOURCE] * len(lost), pa.array([""] * len(lost), pa.string()))


def _lost(lost: NDArray[np.uint64], reasons: Sequence[str], details: pa.Array) -> LostPrompts:
    columns = {
        "stage": pa.array(["mix"] * len(lost), pa.string()),
        "where": pa.array(identities_of(lost), pa.string()),
        "reason": pa.array(reasons, pa.string()),
        "detail": details,
        "row": pa.array([""] * len(lost), pa.string()),
    }
    counts = Counter(reasons)
    order = (UNSOLVED, FILTERED, RESERVED, SURPLUS, WITHOUT_PAIR, NO_SOURCE)
    known = {name: counts[name] for name in order if counts[name]}
    return LostPrompts(pa.table(columns, schema=arrow_schema(Dropped)), known)


def joined(parts: Sequence[LostPrompts]) -> LostPrompts:
    """The lost prompts of several groups of arms."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
    return LostPrompts(pa.concat_tables([part.table for part in parts]), dict(counts))


def _pools_with(
    prompt_keys: NDArray[np.uint64], pools: tuple[str, ...], index: TraceIndex, is_counted: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """[prompts, pools]: whether the pool has a trace that counts for the prompt (sorted keys)."""
    codes = index.pool_codes(pools)
    rows = np.flatnonzero(is_counted & (codes >= 0) & contains(prompt_keys, index.prompt_keys))
    found = np.zeros((len(prompt_keys), len(pools)), dtype=np.bool_)
    found[np.searchsorted(prompt_keys, index.prompt_keys[rows]), codes[rows]] = True
    return found
