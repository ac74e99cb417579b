"""Every policy by name, and the check that all of a run's arms teach the same prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from distill.config_mix import MixConfig
from distill.errors import StageError
from distill.mix.both import choose_both
from distill.mix.candidates import Candidates
from distill.mix.choice import Choice
from distill.mix.curriculum import choose_curriculum
from distill.mix.hard_gets_long import choose_hard_gets_long
from distill.mix.single import choose_single
from distill.mix.student_fit import choose_student_fit
from distill.mix.weighted import choose_weighted
from distill.mix.weighted_tokens import choose_weighted_tokens

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
