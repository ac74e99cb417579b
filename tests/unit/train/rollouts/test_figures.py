"""Rollouts on disk and in figures: what is measured of them, and what stops a training."""

import math

import numpy as np
import pytest

from distill.core.run_dir import RunDir
from distill.train.rollouts.figures import faults, rollout_figures, self_difference, third_of, training_fault, warnings
from distill.train.rollouts.store import Rollout, read_rollouts, read_scores, write_rollouts, write_scores


def rollout(name: str, sampled: list[float], *, is_finished: bool = True) -> Rollout:
    values = np.asarray(sampled, dtype=np.float32)
    return Rollout(name, np.arange(len(values), dtype=np.int32), values, is_finished)


ANSWERS = [rollout("a", [-1.0, -1.0, -1.0, -1.0, -1.0, -0.5]), rollout("b", [-2.0, -1.0, 0.0], is_finished=False)]
TEACHER = {
    "a": np.array([-1.0, -1.0, -2.0, -2.0, -4.0, -0.5], dtype=np.float32),
    "b": np.array([-2.0, -1.0, -3.0], dtype=np.float32),
}


def test_what_is_written_is_read_again_and_nothing_is_there_before(run_dir: RunDir) -> None:
    assert read_rollouts(run_dir, "c") == [] and read_scores(run_dir, "c", "long") == {}
    write_rollouts(run_dir, "c", ANSWERS)
    write_scores(run_dir, "c", "long", TEACHER)
    for known, found in zip(ANSWERS, read_rollouts(run_dir, "c"), strict=True):
        assert (found.trace_id, found.is_finished) == (known.trace_id, known.is_finished)
        assert found.tokens.tolist() == known.tokens.tolist() and found.sampled.tolist() == known.sampled.tolist()
        assert found.tokens.dtype == np.int32 and found.sampled.dtype == np.float32
    scores = read_scores(run_dir, "c", "long")
    assert {name: values.tolist() for name, values in scores.items()} == {n: v.tolist() for n, v in TEACHER.items()}


def test_the_divergence_is_told_by_thirds_of_the_answers() -> None:
    assert third_of(6).tolist() == [0, 0, 1, 1, 2, 2] and third_of(2).tolist() == [0, 1] and third_of(0).tolist() == []
    figures = rollout_figures(ANSWERS, TEACHER)
    assert figures["start_kl"] == pytest.approx((0 + 0 + 1 + 1 + 3 + 0 + 0 + 0 + 3) / 9)
    assert figures["start_kl_first"] == 0.0 and figures["start_kl_middle"] == pytest.approx(2 / 3)
    assert figures["start_kl_last"] == pytest.approx(6 / 3)
    assert (figures["answers"], figures["tokens"], figures["cut_share"]) == (2, 9, 0.5)
    assert figures["end_student"] == pytest.approx(math.exp(-0.5)) == figures["end_teacher"]
    assert "50% of the student's answers were cut" in warnings(figures)[0]


def test_the_divergence_is_that_of_the_tokens_which_are_learnt_from() -> None:
    figures = rollout_figures(ANSWERS, TEACHER, first_tokens=3)
    assert figures["start_kl"] == pytest.approx((0 + 0 + 1 + 0 + 0 + 3) / 6)
    assert figures["start_kl_middle"] == pytest.approx(1 / 2), "thirds are those of the whole answers"
    assert figures["start_kl_last"] == pytest.approx(3.0), "of the short answer alone"
    assert figures["mean_tokens"] == 4.5 and figures["end_teacher"] == pytest.approx(math.exp(-0.5))


def test_nothing_is_learnt_from_answers_that_are_not_what_they_seem() -> None:
    good = rollout_figures(ANSWERS, TEACHER)
    assert faults({**good, "self_difference": 0.01}) == []
    assert "differs by 0.700 nats" in faults({**good, "self_difference": 0.7})[0]
    assert "probability of 1.0e-05" in faults({**good, "end_teacher": 1e-5})[0]
    assert "every answer was cut" in faults(rollout_figures(ANSWERS[1:], TEACHER))[0]
    assert "wrote no answer" in faults(rollout_figures([], {}))[0]
    broken = rollout_figures(ANSWERS, TEACHER | {"a": np.full(6, math.nan, dtype=np.float32)})
    assert "are no numbers" in faults(broken)[0], "no comparison with NaN holds"
    assert self_difference(ANSWERS, {one.trace_id: one.sampled for one in ANSWERS}) == 0.0


def test_a_student_that_ends_every_answer_at_once_writes_nothing() -> None:
    empty = [rollout(name, [-0.1]) for name in "ab"]
    scores = {name: np.array([-0.1], dtype=np.float32) for name in "ab"}
    assert faults(rollout_figures(empty, scores)) == [
        "the student writes nothing: every answer is the one token that ends it"
    ]
    assert faults(rollout_figures([*empty, ANSWERS[0]], scores | TEACHER)) == []


def test_a_training_stops_where_the_student_leaves_its_teacher_for_several_steps() -> None:
    assert training_fault(0.5, [0.5] * 30) == "" and training_fault(0.5, [9.0] * 9) == ""
    assert training_fault(0.5, [0.5] * 30 + [1.2] * 10).startswith("the divergence from the teacher has grown")
    assert training_fault(0.0, [0.15] * 30) == "", "next to nothing may double"
