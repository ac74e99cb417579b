"""The weights of tokens under each objective: what they are, where they change sign, and autograd's word on them."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, logsigmoid

from distill.config.objectives import IMITATE, Prefer, Reinforce
from distill.models.chat_template import IGNORED
from distill.train.worker.batches import TrainRow
from distill.train.worker.objectives import (
    PairSums,
    describe_objective,
    margin_of_rest,
    mode_weights,
    pair_metrics,
    prefer_losses,
    prefer_weights,
    reinforce_weights,
)
from tests.fixtures.tiny_architectures import tiny

DPO, CDPO = Prefer(beta=0.4), Prefer(beta=0.4, eps=0.2)
JOINT = Prefer(beta=0.4, eps=0.2, alpha=0.5)
OBJECTIVES = [DPO, CDPO, JOINT]


def pairs_with(margins: list[float], tokens: tuple[int, int] = (5, 8)) -> PairSums:
    """Pairs whose rejected rows have become less likely by their margin."""
    reference = torch.full((len(margins), 2), 10.0, dtype=torch.double)
    gained = torch.tensor(margins, dtype=torch.double)
    nll = reference + torch.stack([torch.zeros_like(gained), gained], dim=1)
    return PairSums(nll, reference, torch.tensor([tokens] * len(margins), dtype=torch.double))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_weights_are_the_derivatives_of_the_loss_by_the_negative_log_likelihoods(objective: Prefer) -> None:
    pairs = pairs_with([-7.0, -0.3, 0.0, 2.0, 9.0])
    nll = pairs.nll.clone().requires_grad_()
    (known,) = torch.autograd.grad(prefer_losses(objective, pairs._replace(nll=nll)).sum(), nll)
    torch.testing.assert_close(prefer_weights(objective, pairs), known, rtol=1e-12, atol=1e-12)


def test_dpo_pushes_for_ever_and_cdpo_until_its_margin_of_rest_and_back_beyond_it() -> None:
    rest = margin_of_rest(CDPO)
    assert rest == pytest.approx(math.log(0.8 / 0.2) / 0.4) and margin_of_rest(DPO) == math.inf
    pairs = pairs_with([rest - 0.01, rest, rest + 0.01, 60.0])
    below, at, above, far = prefer_weights(CDPO, pairs)[:, 0].tolist()
    assert below > 0 > above > far and at == pytest.approx(0.0, abs=1e-12)
    assert (prefer_weights(DPO, pairs)[:, 0] > 0).all()
    assert torch.equal(prefer_weights(CDPO, pairs)[:, 0], -prefer_weights(CDPO, pairs)[:, 1])


def test_the_loss_is_least_at_the_margin_of_rest() -> None:
    margins = torch.linspace(-20, 20, 4001, dtype=torch.double).tolist()
    losses = prefer_losses(CDPO, pairs_with(margins))
    assert margins[int(losses.argmin())] == pytest.approx(margin_of_rest(CDPO), abs=0.01)
    assert int(prefer_losses(DPO, pairs_with(margins)).argmin()) == 4000


def test_at_the_start_every_pair_has_the_loss_of_a_coin() -> None:
    start = pairs_with([0.0])
    assert float(prefer_losses(DPO, start)) == pytest.approx(math.log(2)) == float(prefer_losses(CDPO, start))
    assert prefer_weights(DPO, start).tolist() == [pytest.approx([0.2, -0.2])]
    joint = prefer_weights(JOINT, start) - prefer_weights(CDPO, start)
    assert joint.tolist() == [pytest.approx([0.5 / 5, 0.0])]


def test_the_metrics_of_a_step_are_means_over_its_pairs() -> None:
    assert pair_metrics(pairs_with([1.0, -2.0, 4.0, 5.0])) == {
        "margin": pytest.approx(2.0),
        "positive": 0.75,
        "chosen_nll": pytest.approx(10 / 5),
        "rejected_nll": pytest.approx(12 / 8),
    }


def test_the_log_says_where_the_push_ends() -> None:
    assert describe_objective(DPO).endswith("pushes for ever; no dropout") and "3.5 nats" in describe_objective(CDPO)
    assert describe_objective(IMITATE) == "every row is imitated"


# A shared prefix, on a real model in fp64

PROMPT, PREFIX = [5, 9, 11], [3, 4, 8, 6]
CHOSEN, REJECTED = [21, 22, 23], [31, 32, 33, 34, 35]


def sums(model: torch.nn.Module, *, is_masked: bool) -> torch.Tensor:
    """[2] with a gradient: summed loss of the chosen and the rejected row, with or without that of their prefix."""
    rows = []
    for rest in (CHOSEN, REJECTED):
        ids = torch.tensor([[*PROMPT, *PREFIX, *rest]])
        num_masked = len(PROMPT) + (len(PREFIX) if is_masked else 0)
        labels = torch.cat([torch.full((num_masked,), IGNORED), ids[0, num_masked:]])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        rows.append(cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="sum"))
    return torch.stack(rows)


def dpo_loss(model: torch.nn.Module, reference: torch.Tensor, *, is_masked: bool, beta: float = 0.4) -> torch.Tensor:
    """Textbook DPO through autograd, from the log-probabilities of both rows."""
    gained = reference - sums(model, is_masked=is_masked)
    return -logsigmoid(beta * (gained[0] - gained[1]))


@pytest.mark.parametrize("is_masked", [False, True])
def test_a_weighted_pass_has_the_gradient_of_dpo_and_masking_the_shared_prefix_changes_nothing(
    is_masked: bool,
) -> None:
    # Not a Llama: its norms are computed in fp32 whatever the weights are.
    start, model = (tiny("gpt2", attn_implementation="eager").double() for _ in range(2))
    with torch.no_grad():
        for weight in start.parameters():
            weight *= 1.1
        reference = {masked: sums(start, is_masked=masked) for masked in (False, True)}
    parameters = list(model.parameters())
    known = torch.autograd.grad(dpo_loss(model, reference[False], is_masked=False), parameters)

    nll = sums(model, is_masked=is_masked)
    made = PairSums(nll.detach()[None], reference[is_masked][None], torch.tensor([[3.0, 5.0]]))
    whole = PairSums(sums(model, is_masked=False).detach()[None], reference[False][None], made.tokens)
    assert float(made.margins) == pytest.approx(float(whole.margins), abs=1e-10)
    assert abs(float(made.margins)) > 1e-3, "two models that agree would prove nothing"
    found = torch.autograd.grad((prefer_weights(DPO, made)[0] * nll).sum(), parameters)
    for one, other in zip(found, known, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_tokens_that_say_the_mode_have_a_weight_of_their_own() -> None:
    says_mode = TrainRow("a", "p", [1, 2, 3, 4], [IGNORED, 2, 3, 4], mode_tokens=2)
    rows = [says_mode, TrainRow("b", "p", [1, 2], [IGNORED, 2])]
    assert mode_weights(rows, 0.25, torch.device("cpu")).tolist() == [0.25, 0.25, 1.0, 1.0]
    assert mode_weights([], 0.25, torch.device("cpu")).tolist() == []


# Rewards, on a real model in fp64


def answer_nll(model: torch.nn.Module) -> torch.Tensor:
    """[n]: losses of the tokens of two answers to one prompt, the first of which says its mode in two tokens."""
    found = []
    for rest in (CHOSEN, REJECTED):
        ids = torch.tensor([[*PROMPT, *rest]])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(PROMPT) - 1 : -1]
        found.append(cross_entropy(logits, ids[0, len(PROMPT) :], reduction="none"))
    return torch.cat(found)


def test_a_weighted_pass_has_the_gradient_of_the_clipped_surrogate_and_of_the_modes_own_weight() -> None:
    start, model = (tiny("gpt2", attn_implementation="eager").double() for _ in range(2))
    with torch.no_grad():
        for weight in start.parameters():
            weight *= 1.3
        written = answer_nll(start)
    objective = Reinforce(clip=0.05, clip_high=0.1)
    advantage = torch.tensor([0.7] * len(CHOSEN) + [-0.3] * len(REJECTED), dtype=torch.double)
    rows = [TrainRow("a", "p", [0, *CHOSEN], [IGNORED, *CHOSEN], mode_tokens=2),
            TrainRow("b", "p", [0, *REJECTED], [IGNORED, *REJECTED])]  # fmt: skip
    of_modes = mode_weights(rows, 0.25, torch.device("cpu")).double()
    parameters = list(model.parameters())

    ratio = (written - answer_nll(model)).exp()
    bounded = ratio.clamp(0.95, 1.1)
    textbook = -torch.minimum(ratio * advantage, bounded * advantage)
    known = torch.autograd.grad((textbook * of_modes).sum(), parameters)

    nll = answer_nll(model)
    made = reinforce_weights(objective, nll.detach(), written, advantage)
    torch.testing.assert_close(made.losses, textbook.detach(), rtol=1e-12, atol=1e-12)
    assert 0 < int(made.is_clipped.sum()) < len(nll), "clipped and free tokens are both compared"
    found = torch.autograd.grad((made.weights * of_modes * nll).sum(), parameters)
    for one, other in zip(found, known, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_an_answer_that_was_just_written_has_its_advantage_as_weight() -> None:
    nll, advantage = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([0.5, -0.25, 0.0])
    made = reinforce_weights(Reinforce(), nll, nll, advantage)
    assert torch.equal(made.weights, advantage) and not made.is_clipped.any()
