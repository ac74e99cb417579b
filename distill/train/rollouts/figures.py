"""What is measured of rollouts before anything is learnt from them, and when that is a reason to stop. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.train.rollouts.store import Rollout

PARTS = ("first", "middle", "last")
"""The thirds of an answer."""
SELF_TOLERANCE = 0.05
"""Largest mean difference between the engine's and our own log-probabilities of the student's tokens, nats. Rounding
leaves a divergence, of second order; a prompt that is rendered otherwise, or tokens off by one, a far larger one."""
CUT_WARNING = 0.05
"""Share of cut answers above which a person is told."""
AT_A_LIMIT = "(by objective.max_tokens, or where train.max_length or serve.engine.max_model_len leave no room)"
LEAST_END_PROBABILITY = 1e-3
"""Of the teacher, for the token that ends an answer: below, it does not end its answers so."""


class Thirds(NamedTuple):
    """Sums of a value over the thirds of answers, and the number of tokens in each."""

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def means(self) -> dict[str, float]:
        """Third -> mean; without those that no answer has."""
        return {part: float(total / count) for part, total, count in zip(PARTS, *self, strict=True) if count}


def third_of(num_tokens: int) -> NDArray[np.int64]:
    """[num_tokens]: the third of an answer that each token is in, 0 to 2."""
    return np.arange(num_tokens) * len(PARTS) // max(1, num_tokens)


def by_thirds(values: Sequence[NDArray[np.float32]], first_tokens: int | None = None) -> Thirds:
    """A value of every token, summed over the thirds of its answer.

    `first_tokens`: only so many at the beginning of each; thirds are those of the whole.
    """
    sums, counts = np.zeros(len(PARTS)), np.zeros(len(PARTS), dtype=np.int64)
    for one in values:
        thirds = third_of(len(one))[:first_tokens]
        sums += np.bincount(thirds, weights=one[:first_tokens], minlength=len(PARTS))
        counts += np.bincount(thirds, minlength=len(PARTS))
    return Thirds(sums, counts)


def kl_per_token(
    rollouts: Sequence[Rollout], teacher: Mapping[str, NDArray[np.float32]], first_tokens: int | None = None
) -> dict[str, float]:
    """Sampled reverse KL of the student that wrote, nats per token: over all tokens (`kl`) and by thirds.

    `first_tokens`: only over so many at the beginning of each answer, those that are learnt from.
    """
    gaps = [one.sampled - teacher[one.trace_id] for one in rollouts]
    thirds = by_thirds(gaps, first_tokens)
    return {"kl": float(thirds.sums.sum() / max(1, thirds.counts.sum())), **thirds.means}


def rollout_figures(
    rollouts: Sequence[Rollout], teacher: Mapping[str, NDArray[np.float32]], first_tokens: int | None = None
) -> dict[str, float]:
    """Of the answers: mean length (tokens), share that was cut, divergence from the teacher over what is learnt from
    (`first_tokens`), and the probability of the token that ends an answer (geometric means), by student and teacher."""
    finished = [one for one in rollouts if one.is_finished]
    ends = {
        "end_student": [float(one.sampled[-1]) for one in finished],
        "end_teacher": [float(teacher[one.trace_id][-1]) for one in finished],
    }
    return {
        "answers": len(rollouts),
        "tokens": int(sum(len(one.tokens) for one in rollouts)),
        "mean_tokens": sum(len(one.tokens) for one in rollouts) / max(1, len(rollouts)),
        "cut_share": 1 - len(finished) / max(1, len(rollouts)),
        **{f"start_{name}" if name == "kl" else f"start_kl_{name}": value
           for name, value in kl_per_token(rollouts, teacher, first_tokens).items()},
        **{name: math.exp(sum(values) / len(values)) for name, values in ends.items() if values},
    }  # fmt: skip


def self_difference(rollouts: Sequence[Rollout], own: Mapping[str, NDArray[np.float32]]) -> float:
    """Mean difference between the log-probabilities that tokens were sampled with and those that we compute for the
    same student, nats per token: about 0, or one of the two has read something else."""
    return kl_per_token(rollouts, own)["kl"] if rollouts else 0.0


def faults(figures: Mapping[str, float]) -> list[str]:
    """Why nothing can be learnt from these answers; empty where something can."""
    found = []
    if not figures["answers"]:
        found.append("the student wrote no answer that fits train.max_length")
    elif figures["tokens"] == figures["answers"] and not figures["cut_share"]:
        found.append("the student writes nothing: every answer is the one token that ends it")
    elif figures["cut_share"] == 1:
        found.append(f"every answer was cut {AT_A_LIMIT}: the student does not end its turns; raise what cuts them")
    if not all(map(math.isfinite, figures.values())):
        found.append(
            "log-probabilities of its tokens are no numbers: weights of the student or of a teacher that scores it are "
            "broken"
        )
    if abs(figures.get("self_difference", 0.0)) > SELF_TOLERANCE:
        found.append(
            f"scored by itself the student differs by {figures['self_difference']:.3f} nats a token from what its "
            f"engine sampled (at most {SELF_TOLERANCE:g}): prompt or tokens are not the same for both"
        )
    if figures.get("end_teacher", 1.0) < LEAST_END_PROBABILITY:
        found.append(
            f"the teacher gives the token that ends an answer a probability of {figures['end_teacher']:.1e}: it ends "
            "its own answers otherwise, and would teach the student to go on"
        )
    return found


def warnings(figures: Mapping[str, float]) -> list[str]:
    """What a person should know of the answers."""
    if figures["cut_share"] > CUT_WARNING:
        return [f"{figures['cut_share']:.0%} of the student's answers were cut {AT_A_LIMIT}"]
    return []


WORSE, STEPS, LEAST_KL = 2.0, 10, 0.1


def training_fault(start_kl: float, recent: Sequence[float]) -> str:
    """Why a training should stop: it drives the student away from its teacher. Empty where it does not.

    Args:
        start_kl: divergence per token before the first step.
        recent: of the newest steps, in order.
    """
    last = recent[-STEPS:]
    limit = WORSE * max(start_kl, LEAST_KL)
    if len(last) == STEPS and sum(last) / STEPS > limit:
        mean = sum(last) / STEPS
        return f"the divergence from the teacher has grown from {start_kl:.3f} to {mean:.3f} nats a token"
    return ""
