"""Trains one cell: a Ray Train run with DeepSpeed, continued from its last checkpoint where there is one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from distill.core.errors import StageError
from distill.core.full_disk import full_disk_said
from distill.core.manifest import Manifest, now
from distill.core.run_dir import RunDir, StageName, Training
from distill.core.saved_files import ADAPTER, MODEL, trained_address
from distill.train.attempts import failure_recorder
from distill.train.cells import CellWork
from distill.train.layout import Device, worker_resources
from distill.train.rollouts.prepare import prepare_rollouts
from distill.train.rollouts.store import read_figures
from distill.train.saved_layout import save_layout
from distill.train.saved_weights import parents_of, require_unchanged
from distill.train.worker.checkpoint import Checkpoints
from distill.train.worker.job import CellJob
from distill.train.worker.loop import Outcome, train_worker

if TYPE_CHECKING:
    from ray.train import TrainingFailedError

    from distill.config.train import TrainConfig


OWN_ERROR = re.compile(r"^distill\.core\.errors\.\w+: ")
STEP_TIMEOUT_S = 1800
"""Longest wait of a worker for the others, Ray Train's own."""
ROUND_TIMEOUT_S = 24 * 3600
"""The same where the first worker writes a round of answers while the others wait. Ray sees a lost worker by itself."""


def train_cell(work: CellWork, *, train: TrainConfig, run_dir: RunDir, device: Device, threads: int = 1) -> Manifest:
    """Train one cell to the end, continuing where an earlier attempt stopped. Ray must be connected.

    Raises:
        StageError: It failed for good; the message names the cause and the log.
        InputError: the weights that it starts from have changed since they were saved.
    """
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    started = time.monotonic()
    name = work.cell.name
    require_unchanged([*parents_of(run_dir, [parent.name for parent in work.cell.parents])])
    work = with_present_parents(work, run_dir)
    _clear_other_attempts(work, run_dir)
    save_layout(work, run_dir)
    rollouts_s = prepare_rollouts(work, train=train, run_dir=run_dir, device=device, threads=threads)
    job = _cell_job(work, train=train, run_dir=run_dir, device=device, threads=threads)
    try:
        with full_disk_said(run_dir.path(*Training(name).ray)):  # of Ray Train's own files
            _trainer(job, run_dir).fit()
    except TrainingFailedError as error:
        raise StageError(f"{name}: {_cause(error)}; log: {_log_path(run_dir, name)}") from error
    except RayError as error:
        raise StageError(f"{name}: {_last_line(str(error))}; log: {_log_path(run_dir, name)}") from error
    outcome = _read_outcome(run_dir, work)
    if outcome.error:
        raise StageError(f"{outcome.error}; log: {_log_path(run_dir, name)}")
    devices = work.resolved_workers * (threads if device == "cpu" else 1)
    wall_s = time.monotonic() - started
    manifest = _manifest(work, outcome, read_figures(run_dir, name), wall_s=wall_s - rollouts_s, devices=devices)
    run_dir.remove(*Training(name).ray)
    run_dir.write_manifest(manifest, *Training(name).folder)
    Checkpoints(run_dir, name, work.key).remove()
    return manifest


def with_present_parents(work: CellWork, run_dir: RunDir) -> CellWork:
    """The cell with the addresses that its parents' weights have now. It was planned before they were trained, when
    only their keys were known; in a bucket an address has the version of the files (`trained_address`)."""
    present: dict[str, str] = {}
    for cell in work.cell.lineage[:-1]:
        manifest = run_dir.read_manifest(*Training(cell.name).folder)
        if manifest is not None:
            for kind, files in ((MODEL, Training(cell.name).model), (ADAPTER, Training(cell.name).adapter)):
                planned = run_dir.address_of(*files, version=manifest.key)
                present[planned] = trained_address(run_dir, cell.name, kind, manifest)
    rollouts = work.rollouts
    return replace(
        work,
        model_path=present.get(work.model_path, work.model_path),
        adapter_path=present.get(work.adapter_path, work.adapter_path),
        rollouts=rollouts and replace(rollouts, student=present.get(rollouts.student, rollouts.student)),
    )


def _clear_other_attempts(work: CellWork, run_dir: RunDir) -> None:
    """An attempt with another key left other weights and metrics; one with this key is continued."""
    found = run_dir.read_bytes(*Training(work.cell.name).key)
    if found is None or json.loads(found) != work.key:
        run_dir.remove(*Training(work.cell.name).folder)
        run_dir.write_bytes(json.dumps(work.key).encode(), *Training(work.cell.name).key)
    run_dir.remove(*Training(work.cell.name).outcome)


def _cell_job(work: CellWork, *, train: TrainConfig, run_dir: RunDir, device: Device, threads: int) -> CellJob:
    return CellJob(
        cell=work.cell.name,
        key=work.key,
        run_uri=run_dir.address,
        model_path=work.model_path,
        shards=work.shards,
        held_out=work.held_out,
        student=work.cell.student,
        objective=work.cell.objective,
        mode_weight=work.cell.mode_weight,
        train=train,
        seed=work.cell.seed,
        device=device,
        threads=threads,
        layout=work.resolved_layout,
        num_workers=work.resolved_workers,
        shape=work.shape,
        base=work.base,
        adapter_path=work.adapter_path,
        rollouts=work.rollouts,
        rounds=work.rounds,
    )


def _trainer(job: CellJob, run_dir: RunDir) -> Any:
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    worker = worker_resources(job.device, job.threads, job.student.gpu)
    timeout_s = ROUND_TIMEOUT_S if job.rounds else STEP_TIMEOUT_S
    return TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="gloo" if job.device == "cpu" else None, timeout_s=timeout_s),
        scaling_config=ScalingConfig(
            num_workers=job.num_workers,
            use_gpu=job.device == "gpu",
            resources_per_worker=worker.bundle,
        ),
        run_config=RunConfig(
            name=job.cell,
            # Ray's own notes on the workers; its way to a bucket would not go by our variables.
            storage_path=run_dir.path(*Training(job.cell).ray),
            storage_filesystem=None if run_dir.is_local else PyFileSystem(FSSpecHandler(run_dir.fs)),
            failure_config=FailureConfig(max_failures=job.train.max_failures),
            callbacks=[failure_recorder(job.run_uri, job.cell)],
        ),
    )


def _read_outcome(run_dir: RunDir, work: CellWork) -> Outcome:
    outcome = run_dir.read_bytes(*Training(work.cell.name).outcome)
    if outcome is None:
        raise StageError(f"{work.cell.name}: ended without a result; log: {_log_path(run_dir, work.cell.name)}")
    return Outcome(**json.loads(outcome))


def _manifest(
    work: CellWork, outcome: Outcome, rollouts: Mapping[str, Any], *, wall_s: float, devices: int
) -> Manifest:
    seconds = dict(outcome.details["seconds"])
    seconds["start_up"] = round(wall_s - sum(seconds.values()), 2)
    if rollouts:
        seconds["rollouts"] = round(sum(rollouts["seconds"].values()), 2)
    return Manifest(
        stage=StageName.TRAIN,
        key=work.key,
        rows_in=outcome.rows_in,
        rows_out=outcome.rows_out,
        drops=outcome.drops,
        wall_s=round(wall_s + seconds.get("rollouts", 0.0), 2),
        finished_at=now(),
        details={
            "cell": work.cell.name,
            "student": work.cell.student.name,
            "mix": work.cell.mix,
            "seed": work.cell.seed,
            **({"after": [parent.name for parent in work.cell.parents]} if work.cell.parents else {}),
            "objective": work.cell.objective.kind,
            "resources": asdict(work.resolved_layout) | {"num_workers": work.resolved_workers, "devices": devices},
            **outcome.details,
            **({"rollouts": rollouts} if rollouts else {}),
            "seconds": seconds,
        },
    )


def _cause(error: TrainingFailedError) -> str:
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    return "; ".join(dict.fromkeys(_last_line(str(failure)) for failure in failures.values())) or _last_line(str(error))


def _last_line(text: str) -> str:
    """The line of a traceback that names the error; one of ours speaks for itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return OWN_ERROR.sub("", lines[-1]) if lines else "no message"


def _log_path(run_dir: RunDir, name: str) -> str:
    """Where the workers' messages are: of a run in a bucket Ray's own logs have them."""
    if run_dir.is_local:
        return run_dir.path(*Training(name).log(0))
    return "logs/worker-*.out in Ray's session folder on the machines of its workers (the dashboard shows them)"
