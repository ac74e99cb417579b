"""Rewards and advantages of a round's answers, and what stops a training."""

import pytest

from distill.config.objectives import Reinforce
from distill.core.schema import Verdict
from distill.train.rollouts.rewards import (
    OwnAnswer,
    advantages,
    is_told,
    reward,
    round_fault,
    round_figures,
    round_words,
)

PLAIN = Reinforce()
RIGHT, WRONG, NONE, ERROR = Verdict.CORRECT, Verdict.INCORRECT, Verdict.NO_ANSWER, Verdict.ERROR


def answer(name: str, verdict: Verdict, *, tokens: int = 10, is_finished: bool = True, text: str = "4") -> OwnAnswer:
    return OwnAnswer(name, name[0], [1] * tokens, text, is_finished, verdict.value)


def test_a_right_answer_is_paid_less_the_longer_it_is_and_a_marked_one_for_its_form() -> None:
    paid = Reinforce(length_levels=(10, 20), length_cost=0.5, format_reward=0.1)
    assert [reward(paid, answer("a", RIGHT, tokens=n)) for n in (10, 11, 21)] == [
        pytest.approx(value) for value in (1.1, 0.85, 0.6)
    ]
    assert reward(paid, answer("a", WRONG, tokens=21)) == pytest.approx(0.1), "a wrong one loses nothing by its length"
    assert reward(paid, answer("a", NONE)) == 0.0 and reward(PLAIN, answer("a", WRONG)) == 0.0


def test_an_advantage_is_the_reward_less_the_groups_mean_without_what_has_no_reward() -> None:
    group = [answer("a1", RIGHT), answer("a2", WRONG), answer("a3", WRONG)]
    left_out = [answer("a4", ERROR), answer("a5", WRONG, is_finished=False), answer("a6", RIGHT, is_finished=False)]
    found = advantages(PLAIN, [*group, *left_out, answer("b1", RIGHT), answer("b2", RIGHT)])
    assert found == {
        "a1": pytest.approx(2 / 3),
        "a2": pytest.approx(-1 / 3),
        "a3": pytest.approx(-1 / 3),
        "b1": 0.0,
        "b2": 0.0,
    }, "an error counts neither as 0 nor in the mean, and no deviation divides"


def test_the_figures_count_what_is_left_out_and_what_differs() -> None:
    answers = [answer("a1", RIGHT), answer("a2", WRONG), answer("a3", ERROR), answer("b1", RIGHT, is_finished=False)]
    figures = round_figures(PLAIN, answers)
    assert (figures["answers"], figures["cut"], figures["errors"]) == (4, 1, 1)
    assert (figures["reward"], figures["right"]) == (0.5, 0.5)
    assert (figures["prompts"], figures["prompts_that_differ"]) == (2, 1)
    assert "25% of the answers were cut" in round_words(figures)
    assert "warning" not in round_words(round_figures(PLAIN, answers[:3])) and not round_fault([figures])


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([answer("a1", NONE, text=" "), answer("a2", NONE, text="")], "writes nothing"),
        ([answer("a1", RIGHT, is_finished=False), answer("a2", ERROR)], "no answer of the round has a reward: 1 were"),
    ],
)
def test_a_round_of_which_nothing_can_be_learnt_stops(answers: list[OwnAnswer], words: str) -> None:
    assert words in round_fault([round_figures(PLAIN, answers)])


def test_a_constant_reward_stops_after_some_rounds_and_a_difference_begins_anew() -> None:
    constant = round_figures(PLAIN, [answer("a1", RIGHT), answer("a2", RIGHT)])
    moved = round_figures(PLAIN, [answer("a1", RIGHT), answer("a2", WRONG)])
    constant, moved = ({**one, "prompts": 20} for one in (constant, moved))
    assert not round_fault([constant] * 3), "60 prompts may all be solved by chance"
    assert not round_fault([constant, constant, moved, constant, constant])
    assert "in 4 rounds none of 80 prompts had answers that differ" in round_fault([moved, *[constant] * 4])
    large = {**constant, "prompts": 128}
    assert not round_fault([large] * 2) and "(means at last 1.00, 1.00, 1.00)" in round_fault([large] * 3)
    assert [is_told(one) for one in ([constant] * 3, [constant] * 4, [large] * 2, [large] * 3, [moved])] == [
        False, True, False, True, True,
    ]  # fmt: skip
