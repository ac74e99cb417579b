"""What a run keeps of the base models of its students."""

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from distill.core.run_dir import RunDir, model_record
from distill.core.saved_files import FILES, SavedFiles
from distill.models.resolve import ResolvedModel
from distill.run import context
from distill.run.context import RunContext
from tests.fixtures.report_run import make_recipe


def fetched(folder: Path, first: float, config: str = "{}") -> Path:
    folder.mkdir(parents=True)
    save_file({"w": np.array([first, 2.0], np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(config)
    return folder


def resolve(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> SavedFiles:
    """The files that a run records of a student's base model which is found in a folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        context, "resolve_model", lambda name, config, tell: ResolvedModel(name, str(folder), "hub/m", "same", 1, 1)
    )
    run_dir = RunDir(str(tmp_path / "run"))
    with ExitStack() as resources:
        run = RunContext(make_recipe(), tmp_path, run_dir, Console(quiet=True), resources)
        run._resolve("smol-8l")
    files: SavedFiles = json.loads(run_dir.read_bytes(*model_record("smol-8l")) or b"")[FILES]
    return files


def test_a_base_that_is_fetched_again_has_the_hashes_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve(tmp_path, fetched(tmp_path / "first", 1.0), monkeypatch)
    assert set(first) == {"model.safetensors", "config.json"}
    other = resolve(tmp_path, fetched(tmp_path / "other", 3.0), monkeypatch)
    assert other == first, "other weights under the same name: they will be refused"
    again = resolve(tmp_path, fetched(tmp_path / "again", 1.0, config='{"version": 2}'), monkeypatch)
    assert again["model.safetensors"] == first["model.safetensors"], "the same weights,"
    assert again["config.json"] != first["config.json"], "whose settings another version wrote"
