"""Arms that are merged, not trained: each is the students of other arms, merged in weight space by a Ray task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.config.decides import identity
from distill.config.mix import MergeConfig
from distill.core.errors import StageError
from distill.core.manifest import Manifest, now
from distill.core.run_dir import RunDir, StageName, Training
from distill.core.schema import content_hash
from distill.train.saved_weights import parents_of, require_unchanged
from distill.train.worker.merge_weights import MergeJob, merge_students

if TYPE_CHECKING:
    from distill.config.train import TrainConfig
    from distill.train.cells import Cell, CellWork


def merge_key(merge: MergeConfig, parents: Sequence[str]) -> str:
    """Hash of everything that decides merged weights. `parents`: the keys of the cells that are merged, in order."""
    return content_hash("merge", identity(merge), list(parents))


def merge_cell(work: CellWork, *, train: TrainConfig, run_dir: RunDir) -> Manifest:
    """Merge a cell from its trained parents. Ray must be connected.

    Raises:
        StageError: the parents do not fit together, or what was saved is not what was merged.
        InputError: the parents' files have changed since they were saved.
    """
    cell = work.cell
    assert cell.merge is not None
    started = time.monotonic()
    parents = tuple(parent.name for parent in cell.parents)
    require_unchanged([*parents_of(run_dir, parents)])
    job = MergeJob(
        run_uri=run_dir.address,
        cell=cell.name,
        parents=parents,
        base_path=work.model_path,
        merge=cell.merge,
        max_length=train.max_length,
    )
    run_dir.remove(*Training(cell.name).folder)
    details = _details(cell, cell.merge, parents) | _run_task(job)
    wall_s = time.monotonic() - started
    manifest = Manifest(StageName.TRAIN, work.key, wall_s=wall_s, finished_at=now(), details=details)
    run_dir.write_manifest(manifest, *Training(cell.name).folder)
    return manifest


def _run_task(job: MergeJob) -> dict[str, Any]:
    import ray
    from ray.exceptions import RayError

    try:
        return dict(ray.get(ray.remote(num_cpus=1)(merge_students).remote(job)))
    except RayError as error:  # of the task itself, or of a worker that died
        cause = getattr(error, "cause", error)
        raise StageError(f"{job.cell}: merging {', '.join(job.parents)} failed: {cause}") from error


def _details(cell: Cell, merge: MergeConfig, parents: tuple[str, ...]) -> dict[str, Any]:
    about = {"cell": cell.name, "student": cell.student.name, "mix": cell.mix, "seed": cell.seed, "steps": 0}
    return about | {"merged_from": list(parents), **merge.model_dump(mode="json", exclude={"name"})}


def describe_merge(details: Mapping[str, Any]) -> str:
    """Origin of a merged student in words, from its manifest."""
    parents, factors = details["merged_from"], MergeConfig.model_validate(_config(details)).factors
    parts = ", ".join(f"{factor:g} of {parent}" for parent, factor in zip(parents, factors, strict=True))
    density = f", density {details['density']:g}" if details["method"] == "ties" else ""
    return f"{details['method']}{density}: {parts}"


def _config(details: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": "merged", **{name: details[name] for name in ("of", "method", "weights", "density")}}
