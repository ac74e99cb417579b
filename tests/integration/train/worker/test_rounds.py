"""Rewards for own answers on real DeepSpeed, without Ray or an engine: each round's adapter writes, rewarded answers
become likelier, and a stopped cell goes on at the beginning of a round."""

import dataclasses
from pathlib import Path

import pytest

from distill.config.objectives import Reinforce
from distill.config.teachers import EngineConfig
from distill.config.verify import VerifyConfig
from distill.core.errors import FullDiskError, StageError
from distill.core.run_dir import RunDir
from distill.core.schema import Verdict
from distill.models.resolve import load_tokenizer
from distill.train.rollouts.rounds_plan import RoundsPlan
from distill.train.worker.checkpoint import Checkpoints
from distill.train.worker.deepspeed_engine import build_engine, build_loss
from distill.train.worker.metrics import StepMetrics, read_metrics
from distill.train.worker.process import prepare_process
from distill.train.worker.rows import load_rows
from tests.fixtures.own_answers import TOKENS, Sampled
from tests.integration.train.worker.test_resume import NUM_STEPS, Attempt, Stopped, curve, job_for, lines_of

SIZE, SAMPLES = 2, 4
OBJECTIVE = Reinforce(samples=SAMPLES, steps_per_round=SIZE, max_tokens=TOKENS)
PLAN = RoundsPlan(EngineConfig(), VerifyConfig(), "", ())


def started(run_dir: RunDir, model: Path) -> Attempt:
    job = dataclasses.replace(job_for(run_dir, model, "lora"), objective=OBJECTIVE, rounds=PLAN)
    prepare_process(job)
    tokenizer = load_tokenizer(str(model))
    rows, rounds = load_rows(job, run_dir, tokenizer), Sampled(job, PLAN, run_dir, tokenizer)
    return Attempt(job, run_dir, build_engine(job, build_loss(job)), rows, 1, rounds)


def asked_of(cell: Attempt) -> tuple[int, ...]:
    assert isinstance(cell.rounds, Sampled)
    return cell.rounds.asked


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> list[StepMetrics]:
    cell = started(RunDir(str(tmp_path_factory.mktemp("rounds"))), model)
    lines = lines_of(cell)
    assert asked_of(cell) == tuple(range(NUM_STEPS // SIZE))
    return lines


def test_rewarded_answers_become_likelier(undisturbed: list[StepMetrics]) -> None:
    right = [line.rewards["right"] for line in undisturbed]
    assert len(undisturbed) == NUM_STEPS and 0.0 < right[0] < 0.9
    assert right[-1] > right[0] + 0.1, right
    assert all(line.rewards["clipped"] == 0.0 for line in undisturbed[::SIZE]), "these are just written"
    assert all(line.loss == pytest.approx(0.0, abs=0.05) for line in undisturbed[::SIZE])
    assert any(line.rewards["clipped"] > 0.0 for line in undisturbed[1::SIZE])


@pytest.mark.parametrize(("stop", "asked_before", "asked_after"), [(3, (0, 1), (2, 3)), (4, (0, 1, 2), (3,))])
def test_a_cell_stopped_in_a_round_takes_its_answers_again_and_continues_on_the_very_same_curve(
    tmp_path: Path,
    model: Path,
    undisturbed: list[StepMetrics],
    stop: int,
    asked_before: tuple[int, ...],
    asked_after: tuple[int, ...],
) -> None:
    first = started(RunDir(str(tmp_path)), model)
    with pytest.raises(Stopped):
        lines_of(first, stop=stop)
    again = started(RunDir(str(tmp_path)), model)
    assert curve(lines_of(again)) == curve(undisturbed)
    assert (asked_of(first), asked_of(again)) == (asked_before, asked_after)


def test_a_student_that_writes_nothing_stops_and_does_so_again(tmp_path: Path, model: Path) -> None:
    for _ in range(2):
        cell = started(RunDir(str(tmp_path)), model)
        assert isinstance(cell.rounds, Sampled)
        cell.rounds.is_mute = True
        with pytest.raises(StageError, match="round 1: the student writes nothing"):
            cell.run()


@pytest.mark.parametrize(("verdict", "mean"), [(Verdict.CORRECT, "1.00"), (Verdict.INCORRECT, "0.00")])
def test_answers_that_are_all_as_good_stop_after_three_rounds_and_do_so_again_without_being_asked(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, mean: str
) -> None:
    monkeypatch.setattr("distill.train.rollouts.rewards.CONSTANT_PROMPTS", 6)
    run_dir, asked = RunDir(str(tmp_path)), []
    for _ in range(2):
        cell = started(run_dir, model)
        assert isinstance(cell.rounds, Sampled)
        cell.rounds.verdict = verdict
        means = rf"\(means at last {mean}, {mean}, {mean}\)"
        reason = f"cell: round 3: the reward is constant: in 3 rounds .*{means}.*take harder"
        with pytest.raises(StageError, match=reason):
            cell.run()
        asked.append(asked_of(cell))
        assert Checkpoints(run_dir, "cell", "key").newest_intact() == 2 * SIZE
        assert [line.step for line in read_metrics(run_dir, "cell")] == [1, 2, 3, 4]
    assert asked == [(0, 1, 2), ()]


def test_weights_that_are_no_numbers_stop_a_round_which_is_taken_again_from_its_beginning(
    tmp_path: Path, model: Path, undisturbed: list[StepMetrics]
) -> None:
    broken = started(RunDir(str(tmp_path)), model)
    broken.break_before = 3
    with pytest.raises(StageError, match=r"nan at step 4 of 8 .*last checkpoint is kept"):
        broken.run()
    again = started(RunDir(str(tmp_path)), model)
    assert curve(lines_of(again)) == curve(undisturbed)
    assert (asked_of(broken), asked_of(again)) == ((0, 1), (2, 3))


@pytest.mark.parametrize(("file", "asked_after"), [("round-000001.parquet", (1, 2, 3)), ("step-00000004", (3,))])
def test_a_disk_that_is_full_in_a_round_is_said_and_the_round_is_taken_again(
    tmp_path: Path,
    model: Path,
    undisturbed: list[StepMetrics],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    asked_after: tuple[int, ...],
) -> None:
    run_dir = RunDir(str(tmp_path))
    write = run_dir.fs.pipe_file

    def full(path: str, data: bytes) -> None:
        if file in path:
            raise OSError(28, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(run_dir.fs, "pipe_file", full)
        with pytest.raises(FullDiskError, match=f"{file}.* could not be written -> make room there"):
            lines_of(started(run_dir, model))
    again = started(RunDir(str(tmp_path)), model)
    assert curve(lines_of(again)) == curve(undisturbed)
    assert asked_of(again) == asked_after
