"""Every policy by name, and the check that all of a run's arms teach the same prompts."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.config.mix import (
    BothMix,
    CurriculumMix,
    HardGetsLongMix,
    MixConfig,
    PoolWeights,
    SingleMix,
    StudentFitMix,
    WeightedMix,
    WeightedTokensMix,
)
from distill.core.errors import StageError
from distill.mix.candidates import Candidates, Labels
from distill.mix.choice import Choice, cut, exact_counts, refuse_empty, seeded_order, uncut
from distill.mix.seeded_order import order_hash


def choose_single(mix: SingleMix, candidates: Candidates, seed: int) -> Choice:
    """The pool's trace for every common prompt."""
    prompts = np.arange(len(candidates))
    return uncut(prompts, np.full_like(prompts, candidates.pools.index(mix.pool)))


HASHES = 2.0**64


def choose_weighted(mix: PoolWeights, candidates: Candidates, seed: int) -> Choice:
    """Exact counts by largest remainder, within every stratum as near as its size lets it; or by threshold."""
    if isinstance(mix, WeightedMix) and mix.assign == "threshold":
        return choose_by_threshold(mix, candidates, seed)
    counts = exact_counts(mix.name, dict(sorted(mix.weights.items())), candidates)
    order = seeded_order(candidates, seed, mix.stratify)
    return cut(order, counts, candidates.pools)


def choose_by_threshold(mix: WeightedMix, candidates: Candidates, seed: int) -> Choice:
    """A prompt whose hash is in the k-th of the ranges that the weights divide [0, 1) into takes the k-th pool by name.

    Raises:
        StageError: a pool with weight got no prompt.
    """
    weights = dict(sorted(mix.weights.items()))
    codes = np.array([candidates.pools.index(pool) for pool in weights], dtype=np.int64)
    places = order_hash(candidates.prompt_keys, "assign", seed) / HASHES
    ranges = np.searchsorted(np.cumsum(list(weights.values()))[:-1], places, side="right")
    counts = np.bincount(ranges, minlength=len(weights)).tolist()
    refuse_empty(mix.name, weights, dict(zip(weights, counts, strict=True)), len(candidates))
    prompts = np.arange(len(candidates))
    phases = np.zeros_like(prompts)
    return Choice(prompts, codes[ranges], phases, np.argsort(np.argsort(places)))


BISECTIONS = 64


def choose_weighted_tokens(mix: WeightedTokensMix, candidates: Candidates, seed: int) -> Choice:
    """Counts whose token shares are nearest to the weights.

    Raises:
        StageError: a pool with weight would give no row.
    """
    weights = dict(sorted(mix.weights.items()))
    order = seeded_order(candidates, seed, mix.stratify)
    sums = {pool: _sums(candidates, order, pool) for pool in weights}
    counts = token_counts(weights, sums)
    empty = [pool for pool, weight in weights.items() if weight > 0 and not counts[pool]]
    if empty:
        raise StageError(
            f"mix: mixes[{mix.name}] asks {weights[empty[0]]:g} of the tokens from {empty[0]}, which of"
            f" {len(candidates)} common prompts is no row -> more common prompts or a larger weight"
        )
    return cut(order, counts, candidates.pools)


def _sums(candidates: Candidates, order: NDArray[np.int64], pool: str) -> NDArray[np.float64]:
    """[P + 1]: tokens of the pool's traces for the first 0, 1, ... P prompts of the order."""
    tokens = candidates.tokens[order, candidates.pools.index(pool)]
    return np.concatenate([[0.0], np.cumsum(tokens, dtype=np.float64)])


def token_counts(weights: Mapping[str, float], sums: Mapping[str, NDArray[np.float64]]) -> dict[str, int]:
    """Prompts per pool, in the order of `weights`; they add up to all prompts."""
    prompts = np.arange(len(next(iter(sums.values()))), dtype=np.float64)
    last = list(weights)[-1]
    low, high = 0.0, float(max(pool_sums[-1] for pool_sums in sums.values())) * 2
    for _ in range(BISECTIONS):
        total = (low + high) / 2
        start = _stops(weights, sums, prompts, total)[-2]
        left = sums[last][-1] - np.interp(start, prompts, sums[last])
        low, high = (total, high) if left > weights[last] * total else (low, total)
    stops = np.rint(_stops(weights, sums, prompts, (low + high) / 2)).astype(np.int64)
    return dict(zip(weights, np.diff(stops).tolist(), strict=True))


def _stops(
    weights: Mapping[str, float],
    sums: Mapping[str, NDArray[np.float64]],
    prompts: NDArray[np.float64],
    total: float,
) -> list[float]:
    """0, then where each pool's run ends, in fractions of a prompt; the last one ends with the prompts.

    Rounded only when all are found, so that a larger weight never gives an earlier end.
    """
    stops = [0.0]
    for pool, weight in list(weights.items())[:-1]:
        wanted = np.interp(stops[-1], prompts, sums[pool]) + weight * total
        stops.append(max(stops[-1], float(np.interp(wanted, sums[pool], prompts))))
    return [*stops, prompts[-1]]


def choose_hard_gets_long(mix: HardGetsLongMix, candidates: Candidates, seed: int) -> Choice:
    """Prompts from the hardest to the easiest, ties in the seeded order, cut at the exact counts."""
    counts = exact_counts(mix.name, {pool: mix.weights[pool] for pool in mix.order}, candidates)
    ranks = order_hash(candidates.prompt_keys, "assign", seed)
    order = np.lexsort((ranks, -hardness(mix, candidates)))
    return cut(order, counts, candidates.pools)


def hardness(mix: HardGetsLongMix, candidates: Candidates) -> NDArray[np.float64]:
    """[P], larger is harder.

    Raises:
        StageError: the level of a prompt has no number in it.
    """
    if mix.hardness == "pass_rate":
        return -candidates.pass_rates
    if mix.hardness == "length":
        mean: NDArray[np.float64] = candidates.tokens.mean(axis=1)
        return mean
    labels = candidates.labels["level"]
    return np.array([_level(name, mix.name, labels) for name in labels.names], dtype=np.float64)[labels.codes]


def _level(name: str, mix: str, labels: Labels) -> float:
    found = re.search(r"\d+(\.\d+)?", name)
    if found is None:
        count = int((labels.codes == labels.names.index(name)).sum())
        raise StageError(
            f"mix: mixes[{mix}] sorts prompts by level, but the level of {count} of {len(labels.codes)} is {name!r},"
            " which has no number -> name the column with numbers in prompts.sources[].columns.level,\n"
            '     or use hardness = "pass_rate" or "length"'
        )
    return float(found.group())


def choose_both(mix: BothMix, candidates: Candidates, seed: int) -> Choice:
    """Prompts in order, the pools of each by name."""
    places = np.array(sorted(candidates.pools.index(pool) for pool in mix.pools), dtype=np.int64)
    prompts = np.repeat(np.arange(len(candidates)), len(places))
    return uncut(prompts, np.tile(places, len(candidates)))


def choose_curriculum(mix: CurriculumMix, candidates: Candidates, seed: int) -> Choice:
    """The weighted choice; the phase of a row is the place of its pool in the order."""
    choice = choose_weighted(mix, candidates, seed)
    phases = np.full(len(candidates.pools), -1, dtype=np.int64)
    phases[[candidates.pools.index(pool) for pool in mix.order]] = np.arange(len(mix.order))
    return choice._replace(phases=phases[choice.pools])


def choose_student_fit(mix: StudentFitMix, candidates: Candidates, seed: int) -> Choice:
    """The lowest score among the named pools; of equal ones the pool that is first by name."""
    places = np.array(sorted(candidates.pools.index(pool) for pool in mix.pools), dtype=np.int64)
    scores = candidates.fits[f"{mix.student}/{mix.score}"][:, places]
    return uncut(np.arange(len(candidates)), places[np.argmin(scores, axis=1)])


POLICIES: dict[str, Callable[[Any, Candidates, int], Choice]] = {
    "single": choose_single,
    "weighted": choose_weighted,
    "weighted_tokens": choose_weighted_tokens,
    "hard_gets_long": choose_hard_gets_long,
    "both": choose_both,
    "curriculum": choose_curriculum,
    "student_fit": choose_student_fit,
}


def choose(mixes: Sequence[MixConfig], candidates: Candidates, seed: int) -> dict[str, Choice]:
    """Mix -> its rows. All have the same prompts, and all but `both` one row for each.

    Raises:
        StageError: a weight that no row realises.
    """
    chosen = {mix.name: POLICIES[mix.policy](mix, candidates, seed) for mix in mixes}
    for mix in mixes:
        per_prompt = len(mix.shares) if mix.policy == "both" else 1
        assert np.array_equal(chosen[mix.name].prompts, np.repeat(np.arange(len(candidates)), per_prompt)), mix.name
    return chosen


def validate_common(candidates: Candidates, traces: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse to go on without a common prompt. `traces`: pool -> reason -> correct traces.

    Raises:
        StageError: no prompt has a usable trace of every pool; says how many each has, and what was left out why.
    """
    if len(candidates):
        return
    solved = ", ".join(f"{pool} {count}" for pool, count in candidates.solved.items())
    pairs = [(pool, reason, count) for pool, counts in traces.items() for reason, count in counts.items()]
    lost = ", ".join(f"{pool} {count} {reason}" for pool, reason, count in pairs if reason != "usable")
    raise StageError(
        f"mix: no prompt has a usable trace of all of the pools {', '.join(candidates.pools)}"
        f" (prompts with one: {solved}; correct traces left out: {lost or 'none'})\n"
        "  -> more prompts, more samples per prompt (teachers[].num_samples), easier prompts, a stronger teacher,"
        " or wider [filters]"
    )


def validate_held_out(num: int | None, num_common: int) -> None:
    """Refuse to hold out all that there is.

    Raises:
        StageError: fewer prompts are common than are to be held out.
    """
    if num and 0 < num_common <= num:
        raise StageError(
            f"mix: train.held_out_prompts = {num}, and only {num_common} prompts are solved by every pool\n"
            "  -> hold out fewer, or ask for more prompts"
        )


def pools_of(mixes: Sequence[MixConfig]) -> tuple[str, ...]:
    """Every pool that any arm names, also at weight 0, by name."""
    return tuple(sorted({pool for mix in mixes for pool in mix.shares}))
