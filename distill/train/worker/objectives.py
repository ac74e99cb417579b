"""The weight of every token under each objective. Pure functions of log-probabilities.

A step minimises the sum of w_t * NLL_t over the tokens of its batch, with weights held constant, divided by what the
objective averages over. So w_t is the derivative of the objective's loss by NLL_t:

* `imitate`: 1, averaged over the supervised tokens.
* `prefer`, averaged over the pairs. With the margin D = (log-ratio of chosen to rejected) less (the reference's) and
  s = sigmoid(-beta D), the loss -(1 - eps) log sigmoid(beta D) - eps log sigmoid(-beta D) has dL/dD = -beta (s - eps):
  beta (s - eps) for the tokens of the chosen row, -beta (s - eps) for those of the rejected one. eps = 0 is DPO
  (Rafailov et al., arXiv 2305.18290); eps > 0 is conservative DPO (Mitchell, "A note on DPO with noisy preferences",
  2023), whose push ends at D = ln((1 - eps) / eps) / beta. alpha adds alpha / tokens to the chosen row: its mean loss
  per token, the joint objective of Marco-o1 v2 (arXiv 2503.01461), as in iterative RPO (arXiv 2404.19733).

* `match`, averaged over the tokens, which the student wrote itself: the reverse KL divergence from student s to teacher
  t has the gradient E[(log s - log t) d log s / d theta] over tokens that s samples. As a weight of NLL = -log s the
  coefficient has the other sign: log t - log s, without gradient through it. What the teacher finds likelier than the
  student does is made likelier.

* `reinforce`, averaged over the tokens of a step's answers: with the ratio r of a token's probability to that under the
  student which wrote it, and the answer's advantage A, the surrogate is -min(r A, clip(r) A) (PPO, arXiv 1707.06347).
  Its derivative by NLL is r A where the unclipped term is the smaller one, else 0; tokens that say the mode have it
  times a weight of their own (Thinkless, arXiv 2505.13379).

Tokens that both rows begin with have opposite weights and equal log-probabilities: they cancel in D and in its
gradient, so masking a shared prefix changes nothing but alpha's part.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import logsigmoid

from distill.config.objectives import Match, Prefer, Reinforce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distill.config.objectives import Objective
    from distill.train.worker.batches import TrainRow


class PairSums(NamedTuple):
    """Pairs of a step, each [pairs, 2] in fp64: the chosen row, then the rejected one."""

    nll: torch.Tensor
    """Summed negative log-likelihood of the learnt tokens under the student, nats."""
    reference: torch.Tensor
    """The same under the weights that the arm starts from."""
    tokens: torch.Tensor
    """Number of learnt tokens."""

    @property
    def margins(self) -> torch.Tensor:
        """[pairs]: D, nats."""
        gained = self.reference - self.nll
        return gained[:, 0] - gained[:, 1]


def prefer_weights(objective: Prefer, pairs: PairSums) -> torch.Tensor:
    """[pairs, 2]: the weight of every token of a row."""
    push = objective.beta * (torch.sigmoid(-objective.beta * pairs.margins) - objective.eps)
    return torch.stack([push + objective.alpha / pairs.tokens[:, 0], -push], dim=1)


def prefer_losses(objective: Prefer, pairs: PairSums) -> torch.Tensor:
    """[pairs]: the loss of each."""
    scaled = objective.beta * pairs.margins
    preference = -(1 - objective.eps) * logsigmoid(scaled) - objective.eps * logsigmoid(-scaled)
    return preference + objective.alpha * pairs.nll[:, 0] / pairs.tokens[:, 0]


def mode_weights(rows: Sequence[TrainRow], weight: float, device: torch.device) -> torch.Tensor:
    """[n]: `weight` for the tokens that say the mode, 1 for all other learnt tokens of packed rows."""
    spans = [(row.mode_tokens, row.supervised_tokens - row.mode_tokens) for row in rows]
    return torch.tensor([one for mode, rest in spans for one in [weight] * mode + [1.0] * rest], device=device)


def match_weights(objective: Match, nll: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """[n]: the weight of every token.

    Args:
        objective: with the clamp.
        nll: [n], negative log-likelihood of the tokens under the student as it is now, nats.
        teacher: [n], log-probability under the teacher, nats.
    """
    return (teacher + nll).clamp(-objective.clamp, objective.clamp)


class Surrogate(NamedTuple):
    """The clipped surrogate of some tokens, [n] each."""

    weights: torch.Tensor
    """Of the tokens."""
    losses: torch.Tensor
    is_clipped: torch.Tensor
    """Whether clipping took the gradient."""


def reinforce_weights(
    objective: Reinforce, nll: torch.Tensor, written: torch.Tensor, advantages: torch.Tensor
) -> Surrogate:
    """The weight of every token of answers.

    Args:
        objective: with the bounds of the ratio.
        nll: [n], negative log-likelihood under the student as it is now, nats.
        written: [n], the same under the student that wrote the answers.
        advantages: [n], of the answer that each token is in.
    """
    ratio = (written - nll).exp()
    free = ratio * advantages
    bounded = ratio.clamp(1 - objective.clip, 1 + objective.clip_high) * advantages
    is_clipped = bounded < free
    return Surrogate(free.masked_fill(is_clipped, 0.0), -torch.minimum(free, bounded), is_clipped)


def describe_objective(objective: Objective) -> str:
    """For the log."""
    if isinstance(objective, Match):
        part = f", the first {objective.first_tokens} tokens" if objective.first_tokens else ""
        return f"own answers{part}: reverse KL to the teacher, coefficients within {objective.clamp:g} nats; no dropout"
    if isinstance(objective, Reinforce):
        return (
            f"own answers, {objective.samples} to a prompt, rewarded by the verifier: rounds of "
            f"{objective.steps_per_round} steps, ratios from {1 - objective.clip:g} to {1 + objective.clip_high:g}; "
            "no dropout"
        )
    if not isinstance(objective, Prefer):
        return "every row is imitated"
    rest = margin_of_rest(objective)
    ends = f"a pair pushes until its margin is {rest:.1f} nats" if math.isfinite(rest) else "a pair pushes for ever"
    return f"pairs: beta {objective.beta:g}, eps {objective.eps:g}, alpha {objective.alpha:g}; {ends}; no dropout"


def margin_of_rest(objective: Prefer) -> float:
    """The margin at which a pair pushes no longer, nats."""
    eps = objective.eps
    return math.log((1 - eps) / eps) / objective.beta if eps else math.inf


def pair_metrics(pairs: PairSums) -> dict[str, float]:
    """Means over the pairs of a step: margin (nats), share of positive margins, loss per token of each side."""
    per_token = (pairs.nll / pairs.tokens).mean(dim=0)
    return {
        "margin": float(pairs.margins.mean()),
        "positive": float((pairs.margins > 0).double().mean()),
        "chosen_nll": float(per_token[0]),
        "rejected_nll": float(per_token[1]),
    }
