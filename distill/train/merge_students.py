"""Arms that are merged, not trained: the students of other arms in weight space, tensor by tensor.

What is merged are the differences from the untouched student, each tensor for itself, in float32. The tensor functions
are peft's. Memory: the tensors of one file of weights, once for every parent.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.storage import local_folder
from distill.config.mix import MergeConfig
from distill.core.errors import StageError
from distill.core.run_dir import Manifest, RunDir, now
from distill.core.schema import Example, content_hash
from distill.models.chat_template import render_example
from distill.run.context import Run
from distill.train.cells import Cell, cell_name
from distill.train.worker.checkpoint import reading, writing

MODEL = "model"
WEIGHTS = "*.safetensors"
CANDIDATE_ROWS = 256
"""Examples of which the shortest are read by the merged student before it counts as done."""


@dataclass(frozen=True)
class MergeJob:
    """What the task needs to know. Travels to it by pickle."""

    run_uri: str
    cell: str
    parents: tuple[str, ...]
    """Cells, in the order of `merge.of`."""
    base_path: str
    """Folder of the untouched student."""
    merge: MergeConfig
    max_length: int


def merge_cell(cell: Cell, current: Run) -> None:
    """Merge, unless these parents are merged so already.

    Raises:
        StageError: the parents do not go together, or what was saved is not what was merged.
    """
    import ray
    from ray.exceptions import RayTaskError

    assert cell.merge is not None
    recipe, run_dir, started = current.recipe, current.run_dir, time.monotonic()
    parents = tuple(cell_name(recipe, cell.student.name, arm, cell.seed) for arm in cell.merge.of)
    keys = [manifest.key for parent in parents if (manifest := run_dir.read_manifest("train", parent))]
    key = content_hash("merge", cell.merge.model_dump(mode="json", exclude={"name"}), keys)
    if run_dir.is_complete(key, "train", cell.name):
        return
    job = MergeJob(
        run_uri=run_dir.address,
        cell=cell.name,
        parents=parents,
        base_path=current.models[cell.student.model].place,
        merge=cell.merge,
        max_length=recipe.train.max_length,
    )
    assert current.session is not None  # connects
    run_dir.remove("train", cell.name)
    try:
        loss = ray.get(ray.remote(num_cpus=1)(merge_students).remote(job))
    except RayTaskError as error:
        raise StageError(f"{cell.name}: merging {', '.join(parents)} failed: {error.cause}") from error
    details = {"cell": cell.name, "student": cell.student.name, "mix": cell.mix, "seed": cell.seed, "steps": 0}
    made = {"merged_from": list(parents), **cell.merge.model_dump(mode="json", exclude={"name"}), "probe_loss": loss}
    run_dir.write_manifest(
        Manifest("train", key, wall_s=time.monotonic() - started, finished_at=now(), details={**details, **made}),
        *("train", cell.name),
    )
    current.console.print(f"  {cell.name}: merged from {', '.join(parents)} ({cell.merge.method})")


def merge_students(job: MergeJob) -> float:
    """Merge, save, open again and compare; the loss on a few of the first parent's examples. Runs in a Ray task.

    Raises:
        StageError: as `merge_cell`.
    """
    from distill.models.resolve import load_tokenizer
    from distill.train.worker.save_student import check_saved, probe_rows

    run_dir = RunDir(job.run_uri)
    with ExitStack() as files:
        folders = [files.enter_context(reading(run_dir, "train", parent, MODEL)) for parent in job.parents]
        tokenizer = load_tokenizer(str(folders[0]))
        with writing(run_dir, "train", job.cell, MODEL) as folder:
            digests = merge_folders(Path(local_folder(job.base_path)), folders, folder, job.merge)
            probe = probe_rows(_examples(run_dir, job, tokenizer))
            return check_saved(folder, digests, probe, expected_loss=None)


def _examples(run_dir: RunDir, job: MergeJob, tokenizer: Any) -> list[Any]:
    from distill.train.worker.batches import TrainRow

    table = run_dir.read_table("mix", f"{job.merge.of[0]}.parquet", row_type=Example)[:CANDIDATE_ROWS]
    rendered = [
        (row["trace_id"], render_example(tokenizer, row["messages"], job.max_length)) for row in table.to_pylist()
    ]
    return [TrainRow(name, "", row.input_ids, row.labels) for name, row in rendered if not isinstance(row, str)]


def merge_folders(base: Path, parents: Sequence[Path], out: Path, merge: MergeConfig) -> dict[str, str]:
    """Merge model folders into another, in files as the first parent has them; the identity of every tensor.

    Raises:
        StageError: a tensor is missing in one of them, or has another shape there.
    """
    from safetensors.torch import save_file

    from distill.train.worker.save_student import digest

    digests: dict[str, str] = {}
    shutil.copytree(parents[0], out, ignore=shutil.ignore_patterns(WEIGHTS), dirs_exist_ok=True)
    with ExitStack() as files:
        sources = [_Weights(folder, files) for folder in (base, *parents)]
        for file in sorted(parents[0].glob(WEIGHTS)):
            names = sources[1].names_in(file)
            tensors = {name: merge_tensor(name, [source.read(name) for source in sources], merge) for name in names}
            digests |= {name: digest(tensor) for name, tensor in tensors.items()}
            save_file(tensors, out / file.name, metadata={"format": "pt"})
    return digests


class _Weights:
    """The tensors of a model folder, read one at a time."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        from safetensors import safe_open

        self.folder = folder
        self.opened = {
            file: files.enter_context(safe_open(file, framework="pt")) for file in sorted(folder.glob(WEIGHTS))
        }
        self.place = {name: file for file, opened in self.opened.items() for name in opened.keys()}  # noqa: SIM118

    def names_in(self, file: Path) -> list[str]:
        return sorted(name for name, place in self.place.items() if place == file)

    def read(self, name: str) -> Any:
        if name not in self.place:
            raise StageError(f"{name} is not among the {len(self.place)} tensors of {self.folder}")
        return self.opened[self.place[name]].get_tensor(name)


def merge_tensor(name: str, tensors: Sequence[Any], merge: MergeConfig) -> Any:
    """One tensor of the merged student, in the type of its parents.

    Args:
        name: for the error.
        tensors: the untouched student's, then one per parent; equal shapes.
        merge: method and weights.

    Raises:
        StageError: the shapes differ.
    """
    import torch
    from peft.utils.merge_utils import task_arithmetic, ties

    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise StageError(f"{name} has the shapes {sorted(shapes)}: these students have no common base")
    base, *others = (tensor.float() for tensor in tensors)
    differences, weights = [other - base for other in others], torch.tensor(merge.factors)
    if merge.method == "ties":
        change = ties(differences, weights, merge.density)
    else:
        change = task_arithmetic(differences, weights)
    return (base + change).to(tensors[1].dtype).contiguous()


def merged_from(details: Mapping[str, Any]) -> str:
    """A merged student's origin in words, from its manifest."""
    parents, factors = details["merged_from"], MergeConfig.model_validate(_config(details)).factors
    parts = ", ".join(f"{factor:g} of {parent}" for parent, factor in zip(parents, factors, strict=True))
    density = f", density {details['density']:g}" if details["method"] == "ties" else ""
    return f"{details['method']}{density}: {parts}"


def _config(details: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": "merged", **{name: details[name] for name in ("of", "method", "weights", "density")}}
