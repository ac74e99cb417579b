"""Merges students in weight space, tensor by tensor: the task that a merged arm is made by.

What is merged are the differences from the untouched student, each tensor by itself, in float32. The tensor functions
are peft's. Memory: the tensors of one file of weights, once per parent.
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.storage import local_folder
from distill.config.mix import MergeConfig
from distill.core.errors import StageError
from distill.core.run_dir import RunDir, Training, arm_examples
from distill.core.saved_files import CARD, FILES, MIX, MODEL, saved_files
from distill.core.schema import Example
from distill.models.chat_template import render_example
from distill.models.resolve import load_tokenizer
from distill.models.template_options import read_options
from distill.train.worker.batches import TrainRow
from distill.train.worker.checkpoint import reading, writing
from distill.train.worker.save_student import check_saved, digest, probe_rows

WEIGHTS = "*.safetensors"
LANGUAGE_PARTS = ("language_model", "text_model")
CANDIDATE_ROWS = 256
"""Examples of which the shortest are read by the merged student before it counts as done."""


@dataclass(frozen=True)
class MergeJob:
    """Arguments of the merge task, to which they travel by pickle."""

    run_uri: str
    cell: str
    parents: tuple[str, ...]
    """Cells, in the order of `merge.of`."""
    base_path: str
    """Folder of the untouched student."""
    merge: MergeConfig
    max_length: int


def merge_students(job: MergeJob) -> dict[str, Any]:
    """Merge, save, load again and compare. Runs in a Ray task.

    Returns what the manifest tells of it: the loss on a few examples of the first parent, and the saved files.

    Raises:
        StageError: the parents do not fit together, or what was saved is not what was merged.
    """
    run_dir = RunDir(job.run_uri)
    with ExitStack() as files:
        folders = [files.enter_context(reading(run_dir, *Training(parent).model)) for parent in job.parents]
        tokenizer = load_tokenizer(str(folders[0]))
        with writing(run_dir, *Training(job.cell).model) as folder:
            digests = merge_folders(Path(local_folder(job.base_path)), folders, folder, job.merge)
            probe = probe_rows(_examples(run_dir, job, tokenizer))
            loss = check_saved(folder, digests, probe, expected_loss=None)
            return {"probe_loss": loss, FILES: {MODEL: saved_files(folder)}}


def _examples(run_dir: RunDir, job: MergeJob, tokenizer: Any) -> list[TrainRow]:
    table = run_dir.read_table(*arm_examples(job.merge.of[0]), row_type=Example)[:CANDIDATE_ROWS]
    rendered = [
        (
            row["trace_id"],
            render_example(tokenizer, row["messages"], job.max_length, read_options(row["template_options"])),
        )
        for row in table.to_pylist()
    ]
    return [TrainRow(name, "", row.input_ids, row.labels) for name, row in rendered if not isinstance(row, str)]


def merge_folders(base: Path, parents: Sequence[Path], out: Path, merge: MergeConfig) -> dict[str, str]:
    """Merge model folders into another, in files as the first parent has them; the digest of every tensor.

    Raises:
        StageError: a tensor is missing in one of them, or has another shape there.
    """
    from safetensors.torch import save_file

    digests: dict[str, str] = {}
    shutil.copytree(parents[0], out, ignore=shutil.ignore_patterns(WEIGHTS, CARD, MIX), dirs_exist_ok=True)
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
        self.file_of = {name: file for file, opened in self.opened.items() for name in opened.keys()}  # noqa: SIM118
        self.text_names = {text_name(name): name for name in self.file_of}

    def names_in(self, file: Path) -> list[str]:
        return sorted(name for name, its_file in self.file_of.items() if its_file == file)

    def read(self, name: str) -> torch.Tensor:
        own = name if name in self.file_of else self.text_names.get(text_name(name))
        if own is None:
            raise StageError(f"{name} is not among the {len(self.file_of)} tensors of {self.folder}")
        tensor: torch.Tensor = self.opened[self.file_of[own]].get_tensor(own)
        return tensor


def text_name(name: str) -> str:
    """A tensor's name without the part that says which language model it is in.

    A student that was trained as the language model alone has `model.layers.0`, its base with a vision part
    `model.language_model.layers.0` or `language_model.model.layers.0`.
    """
    return ".".join(part for part in name.split(".") if part not in LANGUAGE_PARTS)


def merge_tensor(name: str, tensors: Sequence[torch.Tensor], merge: MergeConfig) -> torch.Tensor:
    """One tensor of the merged student, in the type of its parents.

    Args:
        name: for the error.
        tensors: the untouched student's, then one per parent; equal shapes.
        merge: method and weights.

    Raises:
        StageError: the shapes differ.
    """
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
    merged: torch.Tensor = (base + change).to(tensors[1].dtype).contiguous()
    return merged
