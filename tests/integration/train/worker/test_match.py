"""Matching a teacher on own answers on real DeepSpeed, without Ray or an engine: the student comes nearer, a stopped
cell goes on as it was, and each answer has the teacher of its pool."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.config.objectives import Match
from distill.config.teachers import ChatFormat, EngineConfig
from distill.core.errors import StageError
from distill.core.run_dir import RunDir
from distill.core.schema import Example, Message
from distill.models.resolve import load_tokenizer
from distill.train.layout import Layout
from distill.train.rollouts.plan import RolloutPlan, Scorer
from distill.train.rollouts.score import ScoreJob, score_answers
from distill.train.rollouts.store import Rollout, read_rollouts, read_scores, write_rollouts
from distill.train.rollouts.write import student_prompt
from distill.train.worker import job as worker_job
from distill.train.worker.deepspeed_engine import build_engine, build_loss
from distill.train.worker.match import NO_ROLLOUT
from distill.train.worker.process import prepare_process
from distill.train.worker.rows import load_rows
from tests.fixtures.own_answers import load_student, sample
from tests.fixtures.tiny_models import make_tiny_model
from tests.integration.train.worker.test_prefer import in_fp32
from tests.integration.train.worker.test_resume import Attempt, Stopped, curve, job_for, lines_of

MATCH = Match(max_tokens=12)
NUM_ROWS, MAX_TOKENS, MAX_LENGTH = 14, 12, 200


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("teacher") / "other", seed=5)


def write_arm(run_dir: RunDir) -> None:
    pools = ["long" if number % 3 else "short" for number in range(NUM_ROWS)]
    taught = Message("assistant", "5.")
    rows = [
        Example(f"t{number}", f"p{number}", "mix", pool, pool, [Message("user", f"{number}?"), taught])
        for number, pool in enumerate(pools)
    ]
    run_dir.write_rows(rows, Example, "mix", "part-0.parquet")


def write_answers(run_dir: RunDir, path: Path) -> None:
    """Answers that the model samples itself, token by token; the last row has none."""
    torch.manual_seed(0)
    model, tokenizer = load_student(str(path), ""), load_tokenizer(str(path))
    end, rollouts = tokenizer.convert_tokens_to_ids("<|im_end|>"), []
    for example in run_dir.read_table("mix", "part-0.parquet", row_type=Example).to_pylist()[:-1]:
        tokens, sampled = sample(model, student_prompt(tokenizer, example), end=end, room=MAX_TOKENS)
        rollouts.append(Rollout(example["trace_id"], tokens, sampled, end in tokens))
    write_rollouts(run_dir, "cell", rollouts)


def plan_of(model: Path, teacher: Path) -> RolloutPlan:
    scorers = tuple(Scorer(name, str(path), name, ChatFormat()) for name, path in (("long", teacher), ("short", model)))
    return RolloutPlan(str(model), EngineConfig(), scorers, scores_all=False)


def started(run_dir: RunDir, model: Path, teacher: Path, tune: str, objective: Match = MATCH) -> Attempt:
    """A cell that has not begun; answers are written and scored where there are none."""
    plan = plan_of(model, teacher)
    if not run_dir.shards("mix"):
        write_arm(run_dir)
        write_answers(run_dir, model)
        for one in plan.scorers:
            path = run_dir.path("mix", "part-0.parquet")
            score_answers(ScoreJob(run_dir.address, "cell", path, one.name, one.model, None, one.name, "cpu"))
    job = dataclasses.replace(job_for(run_dir, model, tune), objective=objective, rollouts=plan)
    prepare_process(job)
    rows = load_rows(job, run_dir, load_tokenizer(str(model)))
    return Attempt(job, run_dir, build_engine(job, build_loss(job)), rows, padding=1)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_the_student_comes_nearer_and_a_cell_stopped_anywhere_continues_on_the_very_same_curve(
    tmp_path: Path, model: Path, teacher: Path, tune: str
) -> None:
    known = lines_of(started(RunDir(str(tmp_path / "undisturbed")), model, teacher, tune))
    assert known[0].match["drift"] == pytest.approx(0.0, abs=0.02), "at the first step it is the student that wrote"
    assert known[-1].match["kl"] < 0.9 * known[0].match["kl"] and known[-1].match["drift"] > 0.0
    assert known[0].loss == known[0].match["kl"] and not known[0].pools
    run_dir = RunDir(str(tmp_path / "stopped"))
    with pytest.raises(Stopped):
        lines_of(started(run_dir, model, teacher, tune), stop=3)
    again = lines_of(started(run_dir, model, teacher, tune))
    assert curve(again) == curve(known) and [line.match for line in again] == [line.match for line in known]


def test_each_answer_has_the_teacher_of_its_pool_and_a_row_without_one_is_counted(
    tmp_path: Path, model: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.mix.fit_scorer.has_fast_bf16", in_fp32)
    run_dir = RunDir(str(tmp_path))
    cell = started(run_dir, model, teacher, "full")
    assert cell.rows.reasons == {NO_ROLLOUT: 1} and len(cell.rows.kept) == NUM_ROWS - 1
    written = {one.trace_id: one for one in read_rollouts(run_dir, "cell")}
    for row in cell.rows.kept:
        answer, known = written[row.trace_id], cell.rows.own[row.trace_id]
        assert list(row.input_ids)[-len(answer.tokens) :] == answer.tokens.tolist()
        assert row.supervised_tokens == len(answer.tokens)
        assert known.teacher.tolist() == read_scores(run_dir, "cell", row.pool)[row.trace_id].tolist()
        own = np.abs(known.teacher - known.sampled).max()
        assert (own < 0.01) == (row.pool == "short"), "the short pool's teacher is the student itself"


def test_how_answers_are_packed_changes_no_step(
    tmp_path: Path, model: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_job, "has_fast_bf16", in_fp32)
    curves = []
    for micro in (1, 8):
        cell = started(RunDir(str(tmp_path / str(micro))), model, teacher, "full")
        cell.job = dataclasses.replace(cell.job, layout=Layout(zero_stage=0, micro_batch_size=micro))
        lines = lines_of(cell)
        curves.append([value for line in lines for value in (line.loss, line.grad_norm, *line.match.values())])
    assert curves[0] == pytest.approx(curves[1], rel=1e-2, abs=1e-4)


def test_only_the_first_tokens_are_learnt_where_the_arm_says_so(tmp_path: Path, model: Path, teacher: Path) -> None:
    cell = started(RunDir(str(tmp_path)), model, teacher, "full", Match(max_tokens=12, first_tokens=3))
    assert {row.supervised_tokens for row in cell.rows.kept} <= {1, 2, 3}
    first = sum(cell.rows.kept[row].supervised_tokens for row in cell.order.rows(0))
    assert lines_of(cell)[0].supervised_tokens == first


def test_a_training_that_leaves_its_teacher_is_stopped(tmp_path: Path, model: Path, teacher: Path) -> None:
    cell = started(RunDir(str(tmp_path)), model, teacher, "full")
    cell.start_kl, cell.divergences = 0.01, [9.0] * 9
    with pytest.raises(StageError, match=r"the divergence from the teacher has grown .* the last checkpoint is kept"):
        cell.run()
