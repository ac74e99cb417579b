"""Processes that write and score own answers are killed, or their disk is full: nobody waits for them without end, and
what they did not finish is begun anew."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError

from cluster.placement import Resources
from distill.config.objectives import Match
from distill.config.students import FullTune, StudentConfig
from distill.config.teachers import ChatFormat, EngineConfig
from distill.config.train import TrainConfig
from distill.core.errors import StageError
from distill.core.run_dir import RunDir, arm_examples
from distill.models.resolve import load_tokenizer
from distill.train.cells import Cell, CellWork
from distill.train.rollouts import prepare, round_writer
from distill.train.rollouts.plan import RolloutPlan, Scorer
from distill.train.rollouts.prepare import _in_task, prepare_rollouts
from distill.train.rollouts.round_writer import Question, start_writer
from distill.train.rollouts.rounds_plan import rounds_plan
from distill.train.rollouts.score import ITSELF, ScoreJob, score_answers
from distill.train.rollouts.store import ROLLOUTS, read_figures, read_scores, scores_file
from distill.train.rollouts.write import RolloutJob, read_examples, student_prompt
from tests.fixtures.killed_run import TARGETS, only_child
from tests.fixtures.own_answers import write_sampled
from tests.fixtures.small_disk import fill, small_disk
from tests.fixtures.tiny_models import make_tiny_adapter, make_tiny_model, teach_one_answer
from tests.integration.train.test_reinforce import NUM_ROWS, recipe_of, write_arm


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_writer_ends_with_its_engines_own_process(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU: on a CPU the engine is usually in the process of the writer.
    monkeypatch.setattr(round_writer, "single_worker_env", lambda *_: {})
    run_dir, recipe = RunDir(str(tmp_path / "run")), recipe_of(model)
    write_arm(run_dir)
    plan = rounds_plan("rl", recipe.mixes[0].objective, recipe)
    assert plan is not None
    writer = start_writer(run_dir.address, plan, model=str(model), rank=4, device="cpu", threads=1, seed=0)
    ray.get(writer.is_up.remote(), timeout=300)
    core = only_child(TARGETS["engine"])
    core.suspend()  # so that it dies before it has answered
    tokenizer, rows = load_tokenizer(str(model)), read_examples(run_dir, run_dir.path(*arm_examples("rl")))
    asked = [
        Question(row["trace_id"], row["trace_id"], row["prompt_id"], student_prompt(tokenizer, row), False, 40, seed)
        for seed, row in enumerate(rows)
    ]
    answers = writer.write.remote(0, str(make_tiny_adapter(tmp_path / "adapter", model)), asked)
    time.sleep(2.0)
    core.kill()
    with pytest.raises(RayActorError):
        ray.get(answers, timeout=60)


def of_own_answers(run_dir: RunDir, model: Path) -> CellWork:
    """A cell whose student, a tiny model, is brought to itself."""
    student = StudentConfig(name="s", model="m", tune=FullTune())
    cell = Cell("s@rl", student, "rl", 0, objective=Match(max_tokens=40))
    plan = RolloutPlan(
        str(model), EngineConfig(), (Scorer("long", str(model), "long", ChatFormat()),), scores_all=False
    )
    return CellWork(cell, str(model), (run_dir.path(*arm_examples("rl")),), "key", rollouts=plan)


def test_a_disk_that_is_full_while_answers_are_written_or_scored_is_said_and_the_rest_is_done_with_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_full(job: RolloutJob) -> float:
        fill(Path(job.run_uri))
        return write_sampled(job)

    def score_full(job: ScoreJob) -> float:
        if job.scorer == "long":
            fill(Path(job.run_uri))
        return score_answers(job)

    model = make_tiny_model(tmp_path / "model")
    teach_one_answer(model)
    monkeypatch.setattr(prepare, "write_answers", write_sampled)
    with small_disk(tmp_path / "disk") as folder:
        run_dir = RunDir(str(folder))
        write_arm(run_dir)
        cell, work = run_dir.local_path("train", "s@rl"), of_own_answers(run_dir, model)
        finished: dict[str, int] = {}
        faults = (("write_answers", write_full, ROLLOUTS), ("score_answers", score_full, scores_file("long")))
        for name, task, file in faults:
            with monkeypatch.context() as patch:
                patch.setattr(prepare, name, task)
                said = (
                    rf"^s@rl: (writing answers|scoring by long) failed: no room is left .*{file} could not be written"
                )
                with pytest.raises(StageError, match=rf"{said} -> make room there"):
                    prepare_rollouts(work, train=TrainConfig(), run_dir=run_dir, device="cpu", threads=1)
            (folder / "ballast").unlink()
            assert not list(cell.glob(f"{file}*")) and not list(cell.glob("*.tmp"))
            finished = {one.name: one.stat().st_mtime_ns for one in cell.glob("*.parquet")}
        assert finished.keys() == {ROLLOUTS, scores_file(ITSELF)}
        prepare_rollouts(work, train=TrainConfig(), run_dir=run_dir, device="cpu", threads=1)
        assert read_figures(run_dir, "s@rl")["answers"] == len(read_scores(run_dir, "s@rl", "long")) == NUM_ROWS
        assert {name: (cell / name).stat().st_mtime_ns for name in finished} == finished


def test_a_task_whose_worker_is_killed_is_begun_again_and_a_few_times_only(tmp_path: Path) -> None:
    def killed(asked: tuple[str, int]) -> int:
        """Dies so many times, then says how often it was begun."""
        begun = Path(asked[0])
        begun.write_text(f"{begun.read_text() if begun.exists() else ''}x")
        if len(begun.read_text()) <= asked[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(begun.read_text())

    once, always = str(tmp_path / "once"), str(tmp_path / "always")
    assert _in_task(Resources(cpus=1), "s@refine", "scoring by long", killed, (once, 1), {}) == 2
    with pytest.raises(StageError, match="s@refine: scoring by long failed: "):
        _in_task(Resources(cpus=1), "s@refine", "scoring by long", killed, (always, 99), {})
    assert len(Path(always).read_text()) == 3
