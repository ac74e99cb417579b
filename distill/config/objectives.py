"""What an arm learns from its rows: one section per objective, told apart by `kind`.

Each is a weight per token of one primitive, the sum of w_t * NLL_t (`distill.train.worker.objectives`).
"""

from typing import Annotated, Literal

from pydantic import Field

from distill.config.base import Section


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


IMITATE = Imitate()
Objective = Annotated[Imitate | Prefer, Field(discriminator="kind")]
