"""Matching a teacher on the student's own tokens: the gradient is that of the divergence."""

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from distill.config.objectives import Match
from distill.core.schema import Message
from distill.models.chat_template import IGNORED
from distill.train.rollouts.figures import PARTS
from distill.train.rollouts.store import Rollout
from distill.train.worker.loss import HeadLoss
from distill.train.worker.match import answer_row, own_tokens, step_figures
from distill.train.worker.objectives import describe_objective, match_weights
from tests.fixtures.tiny_architectures import tiny

MATCH = Match()
VOCABULARY, HIDDEN, PLACES = 11, 6, 4


def test_the_expected_gradient_over_the_students_own_tokens_is_that_of_the_exact_divergence() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(PLACES, HIDDEN, dtype=torch.double, requires_grad=True)
    head = torch.randn(VOCABULARY, HIDDEN, dtype=torch.double, requires_grad=True)
    teacher = log_softmax(torch.randn(PLACES, VOCABULARY, dtype=torch.double), dim=1)
    student = log_softmax(hidden @ head.T, dim=1)
    exact = (student.exp() * (student - teacher)).sum()
    known = torch.autograd.grad(exact, [hidden, head])
    # Every token of the vocabulary at every place, as often as the student samples it.
    tokens = torch.arange(VOCABULARY).repeat(PLACES)
    probability = student.detach().exp().flatten()
    weights = match_weights(MATCH, -student.detach().flatten(), teacher.flatten()) * probability
    rows = hidden.repeat_interleave(VOCABULARY, dim=0)
    loss, _ = HeadLoss.apply(rows, head, None, tokens, weights)
    found = torch.autograd.grad(loss, [hidden, head])
    for one, other in zip(found, known, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_step_along_the_gradient_of_a_tiny_model_brings_it_nearer_to_its_teacher() -> None:
    model, other = tiny("llama"), tiny("llama")
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    ids = torch.arange(3, 19)[None]

    def divergence() -> torch.Tensor:
        student, teacher = (log_softmax(one(input_ids=ids).logits[0].float(), dim=1) for one in (model, other))
        return (student.exp() * (student - teacher)).sum(dim=1).mean()

    before = float(divergence().detach())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(40):
        student = log_softmax(model(input_ids=ids).logits[0].float(), dim=1)
        with torch.no_grad():
            teacher = log_softmax(other(input_ids=ids).logits[0].float(), dim=1)
        sampled = torch.multinomial(student.detach().exp(), 16, replacement=True)
        own, its = student.gather(1, sampled), teacher.gather(1, sampled)
        optimizer.zero_grad()
        (match_weights(MATCH, -own.detach(), its) * -own).mean().backward()
        optimizer.step()
    assert float(divergence().detach()) < 0.8 * before


def test_a_token_that_the_teacher_finds_likelier_is_made_likelier_and_no_coefficient_is_larger_than_the_clamp() -> None:
    nll, teacher = torch.tensor([2.0, 0.5, 0.1, 60.0]), torch.tensor([-1.0, -0.5, -50.0, -1.0])
    assert match_weights(MATCH, nll, teacher).tolist() == pytest.approx([1.0, 0.0, -20.0, 20.0])
    assert "within 20 nats" in describe_objective(MATCH)
    assert "the first 5 tokens" in describe_objective(Match(first_tokens=5))


EXAMPLE = {"trace_id": "t", "pool": "long", "phase": 0, "messages": [Message("user", "?")]}
ANSWER = Rollout("t", np.array([5, 6, 7, 2], np.int32), np.array([-1, -2, -3, -4], np.float32), True)


def test_a_row_learns_the_beginning_of_the_students_answer_and_knows_its_thirds_and_its_end() -> None:
    row = answer_row(EXAMPLE, [1, 9], ANSWER, 4)
    assert row.input_ids == [1, 9, 5, 6, 7, 2] and row.labels == [IGNORED, IGNORED, 5, 6, 7, 2]
    tokens = own_tokens(ANSWER, np.array([-1, -1, -1, -1], np.float32), 4)
    assert tokens.third.tolist() == [0, 0, 1, 2] and tokens.is_end.tolist() == [False, False, False, True]
    cut = answer_row(EXAMPLE, [1, 9], ANSWER, 2)
    assert cut.input_ids == [1, 9, 5, 6] and cut.supervised_tokens == 2
    assert [len(column) for column in own_tokens(ANSWER, ANSWER.sampled, 2)] == [2, 2, 2, 2]
    assert not own_tokens(ANSWER._replace(is_finished=False), ANSWER.sampled, 4).is_end.any()


def test_the_figures_of_a_step_are_means_over_all_workers_tokens() -> None:
    table = torch.tensor([[2.0, 4.0], [6.0, 4.0], [0.0, 0.0], [1.6, 8.0], [-0.5, 2.0]], dtype=torch.double)
    figures = step_figures(table)
    assert figures == {
        "kl": pytest.approx(1.0),
        "kl_first": pytest.approx(0.5),
        "kl_middle": pytest.approx(1.5),
        "drift": pytest.approx(0.2),
        "end": pytest.approx(-0.25),
    }
    assert len(table) == len(PARTS) + 2
