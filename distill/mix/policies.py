"""The policies: how each arm takes one trace, or several, for every common prompt.

* `single`: one pool alone, the arm that a mix is compared with.
* `weighted`: the mix of "Small Models Struggle to Learn from Strong Reasoners" (arXiv 2502.12143). One trace per
  prompt; a pool's weight is its share of the prompts.
* `weighted_tokens`: one trace per prompt; a pool's weight is its share of the tokens that the student learns from.
* `hard_gets_long`: one trace per prompt; the hardest prompts take theirs from the pool that is named first.
* `both`: a trace of every named pool for each prompt (LS-Mixture, arXiv 2505.03469). The prompts are those of the other
  arms; there are as many times more rows, and steps, as there are pools.
* `curriculum`: the rows of `weighted`, taught pool by pool ("Scale or Reason?", arXiv 2509.22193: short, then long). It
  changes the order only: rows, epochs and steps are those of the shuffled arm.
* `pairs`: two traces for each prompt, one chosen over the other, for preferences (`distill.mix.pairs`).
* `student_fit`: for each prompt, of the pools' traces the one that fits a student best (GRAPE, arXiv 2502.04194, by
  mean negative log-likelihood; arXiv 2601.14249, by rank-surprisal ratio).

`auto` is not a policy: `distill.mix.auto_weights` replaces it by `weighted` before anything is chosen.
"""

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
    PairsMix,
    PoolWeights,
    SingleMix,
    StudentFitMix,
    WeightedTokensMix,
)
from distill.core.errors import StageError
from distill.mix.candidates import Candidates, Labels
from distill.mix.choice import Choice, cut_order, exact_counts, prompt_order, unordered
from distill.mix.seeded_order import order_hash

BISECTIONS = 64
"""Enough for the precision of a float."""


def choose_single(mix: SingleMix, candidates: Candidates, seed: int) -> Choice:
    """The pool's trace for every common prompt."""
    prompts = np.arange(len(candidates))
    return unordered(prompts, np.full_like(prompts, candidates.pools.index(mix.pool)))


def choose_weighted(mix: PoolWeights, candidates: Candidates, seed: int) -> Choice:
    """Cuts the seeded order of the prompts at the exact counts, pools by name.

    Counts are rounded by largest remainder, with strata also within each stratum as far as its size allows. With two
    pools, another weight moves only the prompts between the old and the new cut, the fewest possible. With more, a pool
    whose weight alone rises loses no prompt, but pools between it and the one that shrinks exchange some.

    Raises:
        StageError: a pool with a positive weight would get no prompt.
    """
    counts = exact_counts(mix.name, dict(sorted(mix.weights.items())), candidates)
    order = prompt_order(candidates, seed, mix.stratify)
    return cut_order(order, counts, candidates.pools)


def choose_weighted_tokens(mix: WeightedTokensMix, candidates: Candidates, seed: int) -> Choice:
    """Cuts the seeded order where each pool has reached its share of the tokens, met to within one trace at each cut.

    For a total T, each pool but the last takes prompts until it has its weight of T; the last pool takes the rest. The
    rest shrinks as T grows, so bisection finds the T at which the last pool's share is right too. With two pools the
    prompts of a smaller weight are a subset of those of a larger one.

    Raises:
        StageError: a pool with a positive weight would get no prompt.
    """
    weights = dict(sorted(mix.weights.items()))
    order = prompt_order(candidates, seed, mix.stratify)
    sums = {pool: _sums(candidates, order, pool) for pool in weights}
    counts = token_counts(weights, sums)
    empty = [pool for pool, weight in weights.items() if weight > 0 and not counts[pool]]
    if empty:
        raise StageError(
            f"mix: mixes[{mix.name}] asks for {weights[empty[0]]:g} of the tokens from {empty[0]}, but that rounds to"
            f" no row with {len(candidates)} prompts -> use more prompts or a larger weight"
        )
    return cut_order(order, counts, candidates.pools)


def _sums(candidates: Candidates, order: NDArray[np.int64], pool: str) -> NDArray[np.float64]:
    """[P + 1]: tokens of the pool's traces for the first 0, 1, ... P prompts of the order."""
    tokens = candidates.tokens[order, candidates.pools.index(pool)]
    return np.concatenate([[0.0], np.cumsum(tokens, dtype=np.float64)])


def token_counts(weights: Mapping[str, float], sums: Mapping[str, NDArray[np.float64]]) -> dict[str, int]:
    """Prompts per pool, in the order of `weights`, found by bisection; they add up to all prompts.

    `sums`: pool -> tokens of its traces for the first 0, 1, ... prompts.
    """
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
    """0, then the prompt at which each pool's run ends, as a fraction; the last run ends with the last prompt.

    The caller rounds them once all are found, so that a larger weight never gives an earlier end.
    """
    stops = [0.0]
    for pool, weight in list(weights.items())[:-1]:
        wanted = np.interp(stops[-1], prompts, sums[pool]) + weight * total
        stops.append(max(stops[-1], float(np.interp(wanted, sums[pool], prompts))))
    return [*stops, prompts[-1]]


def choose_hard_gets_long(mix: HardGetsLongMix, candidates: Candidates, seed: int) -> Choice:
    """Cuts the prompts from the hardest to the easiest, ties in the seeded order, at the exact counts.

    Raises:
        StageError: a pool with a positive weight would get no prompt, or a level has no number in it.
    """
    counts = exact_counts(mix.name, {pool: mix.weights[pool] for pool in mix.order}, candidates)
    ranks = order_hash(candidates.prompt_keys, "assign", seed)
    order = np.lexsort((ranks, -hardness(mix, candidates)))
    return cut_order(order, counts, candidates.pools)


def hardness(mix: HardGetsLongMix, candidates: Candidates) -> NDArray[np.float64]:
    """[P]: how hard each prompt is; larger is harder.

    Raises:
        StageError: a prompt's level has no number in it.
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
            " which has no number in it\n  -> name the column with numbers in prompts.sources[].columns.level, or use"
            ' hardness = "pass_rate" or "length"'
        )
    return float(found.group())


def choose_both(mix: BothMix, candidates: Candidates, seed: int) -> Choice:
    """Every prompt once per named pool; the pools of a prompt by name."""
    pools = _pool_codes(mix.pools, candidates)
    prompts = np.repeat(np.arange(len(candidates)), len(pools))
    return unordered(prompts, np.tile(pools, len(candidates)))


def choose_curriculum(mix: CurriculumMix, candidates: Candidates, seed: int) -> Choice:
    """The rows of `weighted`; the phase of a row is the index of its pool in `order`."""
    choice = choose_weighted(mix, candidates, seed)
    phases = np.full(len(candidates.pools), -1, dtype=np.int64)
    phases[[candidates.pools.index(pool) for pool in mix.order]] = np.arange(len(mix.order))
    return choice._replace(phases=phases[choice.pools])


def choose_student_fit(mix: StudentFitMix, candidates: Candidates, seed: int) -> Choice:
    """The trace with the lowest score among the named pools; of equal ones the pool that is first by name."""
    pools = _pool_codes(mix.pools, candidates)
    scores = candidates.fits[f"{mix.student}/{mix.score}"][:, pools]
    return unordered(np.arange(len(candidates)), pools[np.argmin(scores, axis=1)])


def choose_pairs(mix: PairsMix, candidates: Candidates, seed: int) -> Choice:
    """The pair of every prompt that has one, the chosen trace first.

    Raises:
        StageError: no prompt has a pair.
    """
    pairs = candidates.pairs[mix.name]
    prompts = np.flatnonzero(pairs.has_pair)
    if not len(prompts):
        raise StageError(
            f"mix: none of the {len(candidates)} prompts of mixes[{mix.name}] has a pair by {' or '.join(mix.by)} among"
            f" the traces of {', '.join(mix.pools)}\n  -> more samples per prompt (teachers[].num_samples, with"
            " generate.stop_early = false), harder prompts, another `by`, or wider [filters]"
        )
    chosen = unordered(np.repeat(prompts, 2), pairs.pools[prompts].ravel())
    return chosen._replace(paired=pairs.rows[prompts].ravel())


def _pool_codes(pools: Sequence[str], candidates: Candidates) -> NDArray[np.int64]:
    """Indices of some pools in `candidates.pools`, ascending."""
    return np.array(sorted(candidates.pools.index(pool) for pool in pools), dtype=np.int64)


def validate_common(candidates: Candidates, traces: Mapping[str, Mapping[str, int]]) -> None:
    """Check that there is a common prompt.

    `traces`: pool -> reason -> correct traces.

    Raises:
        StageError: no prompt has a usable trace of every pool; names the counts of each pool, and the reasons.
    """
    if len(candidates):
        return
    solved = ", ".join(f"{pool} {count}" for pool, count in candidates.solved.items())
    pairs = [(pool, reason, count) for pool, counts in traces.items() for reason, count in counts.items()]
    left_out = ", ".join(f"{pool} {count} {reason}" for pool, reason, count in pairs if reason != "usable")
    raise StageError(
        f"mix: no prompt has a usable trace of all of the pools {', '.join(candidates.pools)}"
        f" (prompts with one: {solved}; correct traces left out: {left_out or 'none'})\n"
        "  -> more prompts, more samples per prompt (teachers[].num_samples), easier prompts, a stronger teacher,"
        " or wider [filters]"
    )


def validate_held_out(num: int | None, num_common: int) -> None:
    """Check that prompts are left to teach.

    Raises:
        StageError: no more prompts are common than are to be held out.
    """
    if num and 0 < num_common <= num:
        raise StageError(
            f"mix: train.held_out_prompts = {num}, but only {num_common} prompts are solved by every pool\n"
            "  -> hold out fewer, or use more prompts"
        )


def validate_sizes(mixes: Sequence[MixConfig], num_common: int) -> None:
    """Check that every arm can have as many prompts as it asks for.

    Raises:
        StageError: an arm asks for more prompts than are left to teach.
    """
    for mix in mixes:
        if mix.num_prompts is not None and mix.num_prompts > num_common:
            raise StageError(
                f"mix: mixes[{mix.name}].num_prompts = {mix.num_prompts}, but only {num_common} prompts are solved by"
                " every pool and not held out\n  -> ask for fewer, or use more prompts or more samples per prompt"
                " (teachers[].num_samples)"
            )


def pools_of(mixes: Sequence[MixConfig]) -> tuple[str, ...]:
    """Every pool that any arm names, also with weight 0; sorted."""
    return tuple(sorted({pool for mix in mixes for pool in mix.shares}))


POLICIES: dict[str, Callable[[Any, Candidates, int], Choice]] = {
    "single": choose_single,
    "weighted": choose_weighted,
    "weighted_tokens": choose_weighted_tokens,
    "hard_gets_long": choose_hard_gets_long,
    "both": choose_both,
    "curriculum": choose_curriculum,
    "student_fit": choose_student_fit,
    "pairs": choose_pairs,
}


def choose(mixes: Sequence[MixConfig], candidates: Candidates, seed: int) -> dict[str, Choice]:
    """Arm -> its rows. Arms of one `num_prompts` have the same prompts, and all but `both` and `pairs` have one row for
    each; `pairs` has two for those with a pair.

    Raises:
        StageError: a pool with a positive weight would get no prompt, or an arm no pair.
    """
    return {mix.name: _choose(mix, candidates, seed) for mix in mixes}


def _choose(mix: MixConfig, candidates: Candidates, seed: int) -> Choice:
    """The rows of an arm; its policy sees only the prompts that it teaches."""
    taught = candidates.sized(mix.num_prompts, seed)
    choice = POLICIES[mix.policy](mix, candidates if mix.num_prompts is None else candidates.take(taught), seed)
    choice = choice._replace(prompts=taught[choice.prompts])
    per_prompt = {"both": len(mix.shares), "pairs": 2}.get(mix.policy, 1)
    own = np.intersect1d(taught, choice.prompts) if isinstance(mix, PairsMix) else taught
    assert np.array_equal(choice.prompts, np.repeat(own, per_prompt)), mix.name
    return choice
