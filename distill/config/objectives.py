"""What an arm learns from its rows: one section per objective, told apart by `kind`.

Each is a weight per token of one primitive, the sum of w_t * NLL_t (`distill.train.worker.objectives`).
"""

from typing import Annotated, Literal

from pydantic import Field

from distill.config.base import Section
from distill.config.decides import NOTHING


class Imitate(Section):
    """Every row is learnt: the mean negative log-likelihood of its supervised tokens. The default of every arm."""

    kind: Literal["imitate"] = "imitate"


class Prefer(Section):
    """The chosen row of a pair is made likelier than the rejected one, compared with the weights that the arm starts
    from: DPO (arXiv 2305.18290), cDPO with `eps`, joint with imitation of the chosen rows with `alpha`.

    For `policy = "pairs"`. The loss of a pair is -(1 - eps) log sigmoid(beta D) - eps log sigmoid(-beta D), plus alpha
    times the chosen row's loss per token. D, its margin, is the log-ratio of chosen to rejected under the student, less
    that under the weights that it starts from.
    """

    kind: Literal["prefer"] = "prefer"
    beta: float = Field(default=0.1, gt=0.0)
    """How fast a margin counts, 1 / nats: a large one keeps the student near its start."""
    eps: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Share of the pairs that are taken to be the wrong way round (cDPO). Above 0 a pair pushes until its margin is
    ln((1 - eps) / eps) / beta; at 0, plain DPO, it pushes for ever."""
    alpha: float = Field(default=0.0, ge=0.0)
    """Weight of the mean loss per token of the chosen row beside the preference. Above 0 the student keeps writing what
    is chosen; plain DPO may make both rows less likely. 0: none."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Peak learning rate of this arm; preferences usually take a tenth of that of imitation or less. Absent:
    `students.tune.learning_rate`."""


class Match(Section):
    """The student is brought to its teacher on its own answers: offline on-policy distillation. The student of the arm
    that this one comes `after` answers the prompt of every row, at temperature 1; what it writes takes the place of the
    row's trace, and the teacher that wrote the trace says how likely each token is.

    Minimised is the reverse KL divergence from student to teacher, sampled: each token has the coefficient
    log p_student - log p_teacher, without gradient through it (MiniLLM, arXiv 2306.08543; GKD, arXiv 2306.13649).
    Answers and the teacher's log-probabilities are computed once, before the training, and stored beside the cell.
    """

    kind: Literal["match"] = "match"
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer of the student, tokens. A longer one is cut and counted; what there is of it is learnt from."""
    first_tokens: int | None = Field(default=None, ge=1)
    """Only so many tokens at the beginning of an answer are learnt from. Absent: all."""
    clamp: float = Field(default=20.0, gt=0.0)
    """Largest size of a token's coefficient, nats."""
    teacher: str | None = None
    """Name of the teacher that says how likely tokens are, for all rows. Absent: of each row the one whose pool it is
    from; with modes a long answer is so compared with the long pool's teacher."""
    because: str = Field(default="", json_schema_extra=NOTHING)
    """Why a teacher may compare whose traces the arm before did not learn: this is refused without a reason, since the
    student is then drawn to a text that it was never shown, and warned of with one."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Peak learning rate of this arm. Absent: `students.tune.learning_rate`."""


class Reinforce(Section):
    """The student is rewarded for right answers of its own: reinforcement learning from the verifier's verdicts.

    A step takes `train.batch_size` prompts of the arm's rows (their traces are not looked at), each with `samples`
    answers that the student writes at temperature 1. An answer's advantage is its reward less the mean reward of the
    prompt's answers, not divided by their deviation (Dr. GRPO, arXiv 2503.20783); minimised is the clipped surrogate of
    PPO (arXiv 1707.06347) over the tokens of the step's answers. Answers that the token limit cut, and those that the
    verifier could not decide, have no reward: they are left out and counted.

    The steps of the arm are in rounds. In each the student as it is by then answers all prompts of the round, in an
    engine that stays up and is given the student's adapter anew; a killed cell goes on at the beginning of a round.
    Students have `tune = { kind = "lora" }`.
    """

    kind: Literal["reinforce"] = "reinforce"
    samples: int = Field(default=8, ge=2)
    """Answers to each prompt, which are compared with each other."""
    steps_per_round: int = Field(default=1, ge=1)
    """Optimiser steps of a round. Above 1 the later ones learn from answers of a student that was."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer, tokens."""
    clip: float = Field(default=0.2, gt=0.0, lt=1.0)
    """How far below 1 the ratio of a token's probability to that under the student which wrote it counts; for rounds of
    several steps."""
    clip_high: float = Field(default=0.2, gt=0.0)
    """How far above 1 (above `clip`: DAPO, arXiv 2503.14476)."""
    format_reward: float = Field(default=0.0, ge=0.0)
    """Added to the reward of an answer in which the verifier finds an answer, right or wrong. A right one has 1."""
    length_levels: tuple[int, ...] = ()
    """Numbers of tokens, rising. A right answer that is longer than all of them loses `length_cost`, one that is longer
    than some its share of it."""
    length_cost: float = Field(default=0.0, ge=0.0, le=1.0)
    """What the longest right answers lose of their reward."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Peak learning rate of this arm. Absent: `students.tune.learning_rate`."""


IMITATE = Imitate()
Objective = Annotated[Imitate | Prefer | Match | Reinforce, Field(discriminator="kind")]


def is_scored_first(objective: Objective) -> bool:
    """Whether a step scores its rows before any token has its weight; a round of one step has its engine's scores."""
    on_its_own = isinstance(objective, Reinforce) and objective.steps_per_round == 1
    return not isinstance(objective, Imitate) and not on_its_own
