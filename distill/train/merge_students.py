"""Arms that are merged, not trained: each is the students of other arms, merged in weight space by a Ray task."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from cluster.session import Session
from distill.config.decides import identity
from distill.config.mix import MergeConfig
from distill.config.recipe import Recipe
from distill.core.errors import StageError
from distill.core.manifest import Manifest, now
from distill.core.run_dir import RunDir, StageName, Training
from distill.core.schema import content_hash
from distill.train.cells import Cell, cell_name
from distill.train.worker.merge_weights import MergeJob, merge_students


def merge_cell(
    cell: Cell, recipe: Recipe, run_dir: RunDir, base_path: str, connect: Callable[[], Session], console: Console
) -> None:
    """Merge a cell, unless it was already merged from these parents.

    Args:
        cell: with the arms that it is merged from.
        recipe: names the parents.
        run_dir: with the trained parents.
        base_path: folder of the untouched student.
        connect: joins the cluster; called only if there is something to merge.
        console: for progress.

    Raises:
        StageError: the parents do not fit together, or what was saved is not what was merged.
    """
    assert cell.merge is not None
    started = time.monotonic()
    parents = tuple(cell_name(recipe, cell.student.name, arm, cell.seed) for arm in cell.merge.of)
    keys = [manifest.key for parent in parents if (manifest := run_dir.read_manifest(*Training(parent).folder))]
    key = content_hash("merge", identity(cell.merge), keys)
    if run_dir.is_complete(key, *Training(cell.name).folder):
        return
    job = MergeJob(
        run_uri=run_dir.address,
        cell=cell.name,
        parents=parents,
        base_path=base_path,
        merge=cell.merge,
        max_length=recipe.train.max_length,
    )
    connect()
    run_dir.remove(*Training(cell.name).folder)
    details = _details(cell, cell.merge, parents) | {"probe_loss": _run_task(job)}
    manifest = Manifest(StageName.TRAIN, key, wall_s=time.monotonic() - started, finished_at=now(), details=details)
    run_dir.write_manifest(manifest, *Training(cell.name).folder)
    console.print(f"  {cell.name}: merged from {', '.join(parents)} ({cell.merge.method})")


def _run_task(job: MergeJob) -> float:
    import ray
    from ray.exceptions import RayTaskError

    try:
        return float(ray.get(ray.remote(num_cpus=1)(merge_students).remote(job)))
    except RayTaskError as error:
        raise StageError(f"{job.cell}: merging {', '.join(job.parents)} failed: {error.cause}") from error


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
