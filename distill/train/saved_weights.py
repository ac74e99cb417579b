"""Whether a run's weights are still those that were saved: asked before they are trained on, merged, scored or served.

Guaranteed of a folder on this machine: every file that was saved is there, with its length and its SHA-256, and no file
was added that a library would load. A file is read whole unless it was hashed here before and nothing has been written
to it since (`file_digest`), so that bits which a disk loses in silence are found by the first comparison only. Of a
bucket, names and lengths are compared. Weights that an earlier version saved have no hashes: there the length of each
file of weights is compared with its header.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster.storage import cache_dir
from distill.core.errors import InputError
from distill.core.run_dir import Parts, RunDir, StageName, Training, model_record
from distill.core.saved_files import ADAPTER, FILES, MODEL, SavedFiles, changed_files, saved_of
from distill.models.folder import cut_weights


class WeightsFolder(NamedTuple):
    """A folder of weights that is about to be loaded."""

    whose: str
    """A cell, or a model of the recipe."""
    address: str
    saved: SavedFiles | None
    """Its files as they were saved; None where nobody kept their hashes."""
    remedy: str

    def faults(self) -> list[str]:
        """What is not as it was saved, each with its folder."""
        try:
            found = cut_weights(self.address) if self.saved is None else changed_files(self.address, self.saved)
        except OSError as error:
            found = [f"cannot be read ({error})"]
        return [f"{self.address}: {fault}" for fault in found]


def cell_folder(run_dir: RunDir, cell: str, kind: str) -> WeightsFolder:
    """The saved `model` or `adapter` of a cell."""
    files: Parts = Training(cell).adapter if kind == ADAPTER else Training(cell).model
    remedy = f"train this cell again: delete {run_dir.path(*Training(cell).folder)}, then the run's own `distill run`"
    saved = saved_of(run_dir.read_manifest(*Training(cell).folder), kind)
    return WeightsFolder(cell, run_dir.address_of(*files), saved, remedy)


def base_folder(run_dir: RunDir, model: str) -> WeightsFolder | None:
    """The untouched weights of a model of the recipe; None where the run has no record of them."""
    record = json.loads(run_dir.read_bytes(*model_record(model)) or b"{}")
    if not record:
        return None
    found = record["model"]
    address = found["path"] if Path(found["path"]).is_dir() else found["published"] or found["path"]
    return WeightsFolder(f"models.{model}", address, record.get(FILES), _base_remedy(found))


def _base_remedy(model: Mapping[str, Any]) -> str:
    """How a base model gets its own files again. Nobody is told to delete a folder of their own."""
    path = Path(model["path"])
    if path.is_relative_to(cache_dir()):
        return f"delete {path}: it is fetched or converted again. If that gives other files too, begin a new run"
    if path.parent.name == "snapshots":  # of the hub's cache, where files are links to what was fetched
        return f"delete {path.parents[1]}: it is fetched again"
    return f"put the files of {model['source']} back as they were, or begin a new run"


def source_fault(run_dir: RunDir, model: str) -> str:
    """What is wrong where a model's source has other content than when students were trained from it; else empty."""
    trained = run_dir.read_manifest(StageName.TRAIN)
    before = trained.details.get("models", {}).get(model, {}) if trained else {}
    now = json.loads(run_dir.read_bytes(*model_record(model)) or b"{}").get("model", {})
    if not before or not now or before.get("identity") == now.get("identity"):
        return ""
    return (
        f"{now.get('source')} has other content than when the run's students were trained from it"
        "\n    -> put it back, or have `distill run` train and score them again"
    )


def parents_of(run_dir: RunDir, parents: Sequence[str]) -> Iterator[WeightsFolder]:
    """The saved folders of the cells that another one starts from."""
    for parent in parents:
        for kind in (MODEL, ADAPTER):
            folder = cell_folder(run_dir, parent, kind)
            if folder.saved is not None:
                yield folder


def require_unchanged(folders: Sequence[WeightsFolder], faults: Sequence[str] = ()) -> None:
    """That every folder is as it was saved.

    Args:
        folders: those that will be loaded.
        faults: what is known to be wrong already, as `source_fault` tells it.

    Raises:
        InputError: with all that is not, and what to do.
    """
    found = list(faults)
    for folder in folders:
        if wrong := folder.faults():
            found += ["\n    ".join([f"{folder.whose}:", *wrong, f"-> {folder.remedy}"])]
    if found:
        lines = "".join(f"\n  {fault}" for fault in found)
        raise InputError(f"these weights are not those that were saved:{lines}")
