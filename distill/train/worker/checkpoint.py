"""Checkpoints of one training cell: written in place, complete once their marker exists, the newest two kept.

Ray Train restarts a dead worker, but only the files survive a dead driver. So the files alone decide where to
continue: at the newest checkpoint of the present key whose files are all there and readable, or the one before it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from cluster.storage import download, local_folder, upload
from distill.core.errors import FullDiskError
from distill.core.full_disk import full_disk_said
from distill.core.run_dir import Parts, Training

if TYPE_CHECKING:
    from distill.core.run_dir import RunDir

MARKER = "complete.json"
STATE = "state"
KEPT = 2
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What Python, torch and safetensors raise where they cannot write."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a cell, below `train/CELL/checkpoints`."""

    run_dir: RunDir
    cell: str
    key: str

    def parts(self, step: int) -> Parts:
        """Folder of the checkpoint after this many steps, below the run directory."""
        return Training(self.cell).checkpoint(step)

    def complete_steps(self) -> list[int]:
        """Steps with a complete checkpoint of this key, newest first."""
        return [step for step in self._steps() if self._marker(step).get("key") == self.key]

    def newest_intact(self) -> int:
        """The step to continue from; 0 where there is none. Unreadable checkpoints are skipped."""
        return next((step for step in self.complete_steps() if self._is_intact(step)), 0)

    def commit(self, step: int) -> None:
        """Declare a checkpoint complete, then drop all but the newest ones. For one worker, after all have written."""
        files = {self._relative(path, step): int(self.run_dir.fs.size(path)) for path in self._files(step)}
        marker = {"key": self.key, "step": step, "files": files}
        self.run_dir.write_bytes(json.dumps(marker).encode(), *self.parts(step), MARKER)
        for old in [other for other in self._steps() if other not in self.complete_steps()[:KEPT]]:
            self.run_dir.remove(*self.parts(old))

    def remove(self) -> None:
        """Delete them all: the cell is finished, or starts again."""
        self.run_dir.remove(*Training(self.cell).checkpoints)

    def _steps(self) -> list[int]:
        folders = self.run_dir.matching(*Training(self.cell).any_checkpoint)
        return sorted((int(folder[-8:]) for folder in folders), reverse=True)

    def _marker(self, step: int) -> dict[str, Any]:
        try:
            return dict(json.loads(self.run_dir.read_bytes(*self.parts(step), MARKER) or b"{}"))
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
            return {}

    def _files(self, step: int) -> list[str]:
        found = self.run_dir.fs.find(self.run_dir.path(*self.parts(step)))
        return [str(path) for path in found if not str(path).endswith(MARKER)]

    def _relative(self, path: str, step: int) -> str:
        return path.removeprefix(self.run_dir.path(*self.parts(step))).lstrip("/")

    def _is_intact(self, step: int) -> bool:
        present = {self._relative(path, step): int(self.run_dir.fs.size(path)) for path in self._files(step)}
        if any(present.get(name) != size for name, size in self._marker(step)["files"].items()):
            return False
        folder = self.run_dir.path(*self.parts(step))
        # DeepSpeed puts a script beside its tensors.
        return all(self._is_readable(f"{folder}/{name}") for name in present if name.endswith(".pt"))

    def _is_readable(self, path: str) -> bool:
        """torch writes zip archives with a checksum per tensor."""
        try:
            with self.run_dir.fs.open(path, "rb") as file, zipfile.ZipFile(file) as archive:
                return archive.testzip() is None
        except (zipfile.BadZipFile, OSError):
            return False


@contextmanager
def writing(run_dir: RunDir, *parts: str) -> Iterator[Path]:
    """A local folder, uploaded to the run directory when the block ends, or that folder itself where it is local.

    Raises:
        FullDiskError: the disk is full; the folder is gone, for with a part of it there nobody could write a line.
    """
    if run_dir.is_local:
        folder = run_dir.local_path(*parts)
        try:
            with full_disk_said(str(folder), errors=WRITE_ERRORS):
                folder.mkdir(parents=True, exist_ok=True)
                yield folder
        except FullDiskError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return
    with full_disk_said(tempfile.gettempdir(), errors=WRITE_ERRORS), tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
        upload(run_dir.fs, Path(temporary), run_dir.path(*parts))


@contextmanager
def reading(run_dir: RunDir, *parts: str) -> Iterator[Path]:
    """A local folder with the content of one of the run directory."""
    if run_dir.is_local:
        yield Path(local_folder(str(run_dir.local_path(*parts))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        download(run_dir.fs, run_dir.path(*parts), Path(temporary))
        yield Path(temporary)
