"""What is asked in a round, and what its answers are worth."""

import pickle
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from distill.config.objectives import Reinforce
from distill.core.errors import FullDiskError
from distill.core.run_dir import RunDir, Training
from distill.core.schema import Verdict
from distill.models.chat_template import IGNORED
from distill.train.attempts import Lease, SupersededError
from distill.train.rollouts.rewards import OwnAnswer, advantages
from distill.train.worker import rounds as rounds_module
from distill.train.worker.batches import TrainRow
from distill.train.worker.rounds import Rounds, questions, round_rows
from tests.fixtures.byte_tokenizer import tokenizer

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


class Written(Rounds):
    """Rounds whose engine has answered."""

    def start(self) -> None:
        pass

    def while_it_writes(self) -> None:
        pass

    def _ask(self, number: int, asked: Sequence[Any], model: Any) -> list[OwnAnswer]:
        self.while_it_writes()
        verdicts = cycle([Verdict.CORRECT.value, Verdict.INCORRECT.value])
        return [
            OwnAnswer(one.answer_id, one.trace_id, [7], "x", is_finished=True, verdict=verdict)
            for one, verdict in zip(asked, verdicts, strict=False)
        ]

    def prompt_id(self, trace_id: str) -> str:
        return "p"

    def is_opened(self, tokens: Sequence[int]) -> bool:
        return False


@pytest.fixture
def rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    monkeypatch.setattr("distill.train.worker.rounds.rank", lambda: 0)
    monkeypatch.setattr("distill.train.worker.rounds.log_line", lambda text: None)
    monkeypatch.setattr("distill.train.worker.rounds.dist.broadcast_object_list", lambda shared: None)
    job: Any = SimpleNamespace(objective=OBJECTIVE, layout=SimpleNamespace(zero_stage=0), cell="c", key="k", seed=0)
    plan: Any = SimpleNamespace(openings=())
    return Written(job, plan, RunDir(str(tmp_path)), tokenizer())


def round_files(rounds: Written) -> list[str]:
    return sorted(Path(path).name for path in rounds._run_dir.matching(*Training("c").file("rounds"), "*"))


def test_an_attempt_that_was_given_up_while_its_engine_wrote_leaves_nothing(
    rounds: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, newer = (Lease(rounds._run_dir, "c", name) for name in ("first", "second"))
    lease.claim()
    rounds.answers(0, [[ROW]], cast(Any, None), lease)
    assert round_files(rounds) == ["round-000000.json", "round-000000.parquet"]
    monkeypatch.setattr(rounds, "while_it_writes", newer.claim)
    with pytest.raises(SupersededError, match="attempt second has claimed the cell"):
        rounds.answers(1, [[ROW]], cast(Any, None), lease)
    assert round_files(rounds) == ["round-000000.json", "round-000000.parquet"]


def test_a_full_disk_in_a_round_stays_one_for_every_worker(rounds: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def broadcast(shared: list[Any]) -> None:
        if rounds_module.rank() == 0:
            sent.append(pickle.dumps(shared))
        else:
            shared[:] = pickle.loads(sent[-1])

    monkeypatch.setattr(rounds_module.dist, "broadcast_object_list", broadcast)
    lease = Lease(rounds._run_dir, "c", "only")
    lease.claim()

    def full(*_: Any) -> None:
        raise FullDiskError("there is no room")

    with monkeypatch.context() as patch:
        patch.setattr(rounds._run_dir, "write_rows", full)
        for rank in (0, 1):
            patch.setattr(rounds_module, "rank", lambda rank=rank: rank)
            with pytest.raises(FullDiskError, match="no room"):  # which Ray tries again, unlike other ends of a stage
                rounds.answers(0, [[ROW]], cast(Any, None), lease)
    assert len(rounds.answers(0, [[ROW]], cast(Any, None), lease).answers) == 2
