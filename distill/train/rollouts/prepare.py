"""Before a cell that matches its teachers is trained: its student answers, the teachers score, and the figures are
looked at. What is on disk is not done again; a file appears when it is whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.gpus import gpu_kind_request
from cluster.placement import Resources
from cluster.session import Device
from cluster.vllm_args import engine_env, single_worker_env
from distill.config.objectives import Match
from distill.config.students import LoraTune
from distill.core.errors import StageError
from distill.core.events import log_event
from distill.core.run_dir import RunDir, StageName, Training
from distill.train.layout import worker_resources
from distill.train.rollouts.figures import faults, rollout_figures, self_difference, warnings
from distill.train.rollouts.score import ITSELF, ScoreJob, score_answers
from distill.train.rollouts.store import FIGURES, ROLLOUTS, read_rollouts, read_scores, scores_file, teacher_scores
from distill.train.rollouts.write import RolloutJob, write_answers

if TYPE_CHECKING:
    from distill.config.train import TrainConfig
    from distill.train.cells import CellWork
    from distill.train.rollouts.plan import RolloutPlan

SECONDS = "rollout-seconds.json"
CHECKED_ROWS = 64
"""Answers that the student scores itself."""

ResultT = TypeVar("ResultT")


def prepare_rollouts(work: CellWork, *, train: TrainConfig, run_dir: RunDir, device: Device, threads: int) -> float:
    """Write, score and check the answers of a cell's student; the seconds that this took now. Ray must be connected.

    Raises:
        StageError: nothing can be learnt from them; says what to change.
    """
    plan, objective, name = work.rollouts, work.cell.objective, work.cell.name
    if plan is None or not isinstance(objective, Match) or run_dir.exists(*Training(name).file(FIGURES)):
        return 0.0
    ask = partial(_in_task, worker_resources(device, threads, work.cell.student.gpu), name)
    began, seconds = time.monotonic(), Seconds(run_dir, name)
    if not run_dir.exists(*Training(name).file(ROLLOUTS)):
        environment = engine_env(device, plan.student, threads) | single_worker_env(device, plan.engine.num_gpus)
        job = _rollout_job(work, plan, objective, train, run_dir, device)
        seconds.add("write", partial(ask, "writing answers", write_answers, job, environment))
    for one in _score_jobs(work, plan, run_dir, device):
        if not run_dir.exists(*Training(name).file(scores_file(one.scorer))):
            seconds.add(f"score_{one.scorer}", partial(ask, f"scoring by {one.scorer}", score_answers, one, {}))
    figures = _figures(work, plan, objective.first_tokens, run_dir)
    log_event("rollouts", run=run_dir.address, stage=StageName.TRAIN, cell=name, **figures)
    if found := faults(figures):  # nothing is written: looked at again, should the run be continued
        raise StageError(
            f"{name}: nothing can be learnt from its student's answers:" + "".join(f"\n  {one}" for one in found)
        )
    run_dir.write_bytes(
        json.dumps({**figures, "seconds": seconds.taken, "warnings": warnings(figures)}, indent=1).encode(),
        *Training(name).file(FIGURES),
    )
    return time.monotonic() - began


class Seconds:
    """Seconds by what they were spent on, kept on disk: what one attempt finished the next neither does nor times."""

    def __init__(self, run_dir: RunDir, cell: str) -> None:
        self._run_dir, self._parts = run_dir, Training(cell).file(SECONDS)
        self.taken: dict[str, float] = json.loads(run_dir.read_bytes(*self._parts) or b"{}")

    def add(self, name: str, task: Callable[[], float]) -> None:
        """Do a task that tells its own seconds; what it took beside them is the start of its process."""
        began = time.monotonic()
        self.taken[name] = round(task(), 2)
        start_s = time.monotonic() - began - self.taken[name]
        self.taken["starts"] = round(self.taken.get("starts", 0.0) + start_s, 2)
        self._run_dir.write_bytes(json.dumps(self.taken).encode(), *self._parts)


def _figures(work: CellWork, plan: RolloutPlan, first_tokens: int | None, run_dir: RunDir) -> Mapping[str, float]:
    name = work.cell.name
    teacher, own = teacher_scores(run_dir, name, plan), read_scores(run_dir, name, ITSELF)
    written = read_rollouts(run_dir, name)
    scored, checked = ([one for one in written if one.trace_id in known] for known in (teacher, own))
    return {**rollout_figures(scored, teacher, first_tokens), "self_difference": self_difference(checked, own)}


def _rollout_job(
    work: CellWork, plan: RolloutPlan, objective: Match, train: TrainConfig, run_dir: RunDir, device: Device
) -> RolloutJob:
    tune = work.cell.student.tune
    return RolloutJob(
        run_uri=run_dir.address,
        cell=work.cell.name,
        examples=work.shards[0],
        seed=work.cell.seed,
        model=work.model_path,
        adapter=work.adapter_path,
        rank=tune.rank if isinstance(tune, LoraTune) else 0,
        engine=plan.engine,
        device=device,
        max_tokens=objective.max_tokens,
        max_length=train.max_length,
    )


def _score_jobs(work: CellWork, plan: RolloutPlan, run_dir: RunDir, device: Device) -> list[ScoreJob]:
    """The student itself, on some answers, then its teachers."""
    itself = ScoreJob(
        run_uri=run_dir.address,
        cell=work.cell.name,
        examples=work.shards[0],
        scorer=ITSELF,
        model=plan.student,
        chat=None,
        pool=None,
        device=device,
        most_rows=CHECKED_ROWS,
    )
    teachers = [
        replace(itself, scorer=one.name, model=one.model, chat=one.chat, pool=plan.pool_of(one), most_rows=None)
        for one in plan.scorers
    ]
    return [itself, *teachers]


def _in_task(
    takes: Resources, cell: str, what: str, task: Callable[[Any], ResultT], job: Any, environment: Mapping[str, str]
) -> ResultT:
    """Run a task on what a worker of the cell takes; its process ends with it, and gives its memory back."""
    import ray
    from ray.exceptions import RayError

    remote = ray.remote(max_calls=1)(task).options(
        num_cpus=takes.cpus,
        num_gpus=takes.gpus,
        resources=gpu_kind_request(takes.gpu) or None,
        runtime_env={"env_vars": dict(environment)},
        max_retries=2,
    )
    try:
        result: ResultT = ray.get(remote.remote(job))
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        raise StageError(f"{cell}: {what} failed: {str(cause).strip().splitlines()[-1]}") from error
    return result
