"""What is asked in a round, and what its answers are worth."""

from types import SimpleNamespace
from typing import Any, cast

from distill.config.objectives import Reinforce
from distill.core.schema import Verdict
from distill.models.chat_template import IGNORED
from distill.train.rollouts.rewards import OwnAnswer, advantages
from distill.train.worker.batches import TrainRow
from distill.train.worker.rounds import Rounds, questions, round_rows

OBJECTIVE = Reinforce(samples=2)
ROW = TrainRow("t", "pool", [5, 6], [IGNORED, IGNORED], 0)


def asked(steps: list[list[TrainRow]]) -> list[Any]:
    rounds = SimpleNamespace(
        objective=OBJECTIVE,
        is_opened=lambda tokens: False,
        prompt_id=lambda trace_id: "p",
        seed=lambda number, name: hash((number, name)),
    )
    return questions(steps, cast(Rounds, rounds), 0)


def test_a_prompt_that_is_drawn_twice_in_a_step_is_answered_anew() -> None:
    found = asked([[ROW, ROW], [ROW]])
    assert len({one.answer_id for one in found}) == len({one.seed for one in found}) == 6
    verdicts = [Verdict.CORRECT, *[Verdict.INCORRECT] * 5]
    answers = [
        OwnAnswer(one.answer_id, one.trace_id, [7], "x", is_finished=True, verdict=verdict.value)
        for one, verdict in zip(found, verdicts, strict=True)
    ]
    worth = advantages(OBJECTIVE, answers)
    assert worth[found[0].answer_id] == 1 - 1 / 6 and worth[found[1].answer_id] == -1 / 6
    made = round_rows(OBJECTIVE, 0, [[ROW, ROW], [ROW]], answers, lambda tokens: 0)
    assert [len(made.rows(step)) for step in (0, 1)] == [4, 2]


def test_answers_as_good_as_the_others_take_no_pass_and_count_in_the_mean() -> None:
    other = TrainRow("u", "pool", [5], [IGNORED], 0)
    steps = [[ROW, other], [other]]
    verdicts = [Verdict.CORRECT, Verdict.INCORRECT, *[Verdict.CORRECT] * 4]
    answers = [
        OwnAnswer(one.answer_id, one.trace_id, [7, 8, 9], "x", is_finished=True, verdict=verdict.value)
        for one, verdict in zip(asked(steps), verdicts, strict=True)
    ]
    made = round_rows(OBJECTIVE, 4, steps, answers, lambda tokens: 0)
    assert [one.trace_id for one in made.answers] == [answers[0].answer_id, answers[1].answer_id, answers[4].answer_id]
    assert (made.rows(4), made.rows(5)) == ((0, 1), (2,)), "where nothing differs one row is left"
    assert (made.num_tokens(4), made.num_tokens(5)) == (12, 6)
    assert made.advantages == [0.5, -0.5, 0.0]


def test_the_tokens_of_a_mode_are_those_at_the_beginning_of_an_answer() -> None:
    answers = [
        OwnAnswer(one.answer_id, one.trace_id, tokens, "x", is_finished=True, verdict=verdict.value)
        for one, tokens, verdict in zip(
            asked([[ROW]]), ([7, 8, 9], [9]), (Verdict.CORRECT, Verdict.INCORRECT), strict=True
        )
    ]
    made = round_rows(OBJECTIVE, 0, [[ROW]], answers, lambda tokens: len(tokens) - 1)
    assert [one.mode_tokens for one in made.answers] == [2, 0]
