"""Weights that are not those that were saved are refused before an engine starts, with what to do."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from distill.core.errors import InputError
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, StageName, Training, model_record
from distill.core.saved_files import ADAPTER, FILES, MODEL, saved_files
from distill.evaluate.models import EvaluatedModel, weights_key
from distill.evaluate.proof import check_weights
from distill.ops.deploy.endpoint import accuracies, own_hashes
from distill.train.saved_weights import parents_of, require_unchanged, source_fault
from tests.fixtures.report_run import make_recipe, make_run

RECIPE = make_recipe()
WHOLE, ADAPTED = "smol-8l@long", "smol-135m@long"


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run with an adapter of one student, whole weights of the other, and the base models of both."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = RunDir(str(tmp_path / "run"))
    for cell, kind in ((WHOLE, MODEL), (ADAPTED, ADAPTER)):
        folder = found.local_path(*(Training(cell).adapter if kind == ADAPTER else Training(cell).model))
        write_weights(folder, f"{kind}.safetensors")
        details = {FILES: {kind: saved_files(folder)}}
        found.write_manifest(Manifest(StageName.TRAIN, "key", details=details), *Training(cell).folder)
    for name in RECIPE.models:
        base = write_weights(tmp_path / "cache" / "mix-distillation" / "models" / name, "model.safetensors")
        model = {"path": str(base), "published": "", "source": f"hub/{name}", "identity": "i"}
        record = {"model": model, FILES: saved_files(base)}
        found.write_bytes(json.dumps(record).encode(), *model_record(name))
    return found


def write_weights(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    save_file({"w": np.arange(1000, dtype=np.float32)}, folder / name)
    (folder / "config.json").write_text("{}")
    return folder


def models(run_dir: RunDir) -> list[EvaluatedModel]:
    adapter = run_dir.address_of(*Training(ADAPTED).adapter)
    whole = run_dir.address_of(*Training(WHOLE).model)
    return [
        EvaluatedModel("smol-135m", "base", None, "k"),
        EvaluatedModel(ADAPTED, "base", adapter, "k"),
        EvaluatedModel(WHOLE, whole, None, "k"),
    ]


def check(run_dir: RunDir, chosen: list[EvaluatedModel]) -> str:
    """What is said."""
    console = Console(file=io.StringIO(), width=300)
    check_weights(RECIPE, run_dir, chosen, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_weights_as_they_were_saved_are_loaded_without_a_word(run_dir: RunDir) -> None:
    assert check(run_dir, models(run_dir)) == ""


@pytest.mark.parametrize("kind", [MODEL, ADAPTER])
def test_a_changed_byte_of_a_student_is_named_with_its_remedy(run_dir: RunDir, kind: str) -> None:
    cell = WHOLE if kind == MODEL else ADAPTED
    file = run_dir.local_path(*Training(cell).file(kind), f"{kind}.safetensors")
    data = bytearray(file.read_bytes())
    data[2000] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(InputError) as told:
        check(run_dir, models(run_dir))
    message = str(told.value)
    assert f"{cell}:" in message and f"{file.parent}: {file.name} has other content" in message
    assert f"train this cell again: delete {run_dir.path(*Training(cell).folder)}" in message
    assert check(run_dir, [one for one in models(run_dir) if one.name != cell]) == "", "the others are served"


def test_a_base_that_an_adapter_needs_is_checked_too(run_dir: RunDir, tmp_path: Path) -> None:
    base = tmp_path / "cache" / "mix-distillation" / "models" / "smol-135m"
    (base / "config.json").write_text("[]")
    adapted = next(one for one in models(run_dir) if one.name == ADAPTED)
    with pytest.raises(
        InputError, match=rf"models.smol-135m:\n.*config.json has other.*\n.*delete {base}: it is fetched"
    ):
        check(run_dir, [adapted])


def test_nobody_is_told_to_delete_a_folder_of_their_own(run_dir: RunDir, tmp_path: Path) -> None:
    own = write_weights(tmp_path / "own", "model.safetensors")
    model = {"path": str(own), "published": "", "source": str(own), "identity": "i"}
    record = {"model": model, FILES: saved_files(own)}
    run_dir.write_bytes(json.dumps(record).encode(), *model_record("smol-135m"))
    (own / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError) as told:
        check(run_dir, models(run_dir))
    assert f"delete {own}" not in str(told.value) and f"put the files of {own} back" in str(told.value)


def test_weights_of_an_earlier_version_are_loaded_and_said_once_but_not_when_cut(run_dir: RunDir) -> None:
    run_dir.write_manifest(Manifest(StageName.TRAIN, "key"), *Training(WHOLE).folder)
    said = check(run_dir, models(run_dir))
    assert said.strip() == f"no hashes were kept of {WHOLE}: only lengths were compared"
    file = run_dir.local_path(*Training(WHOLE).model, "model.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with pytest.raises(InputError, match=rf"has 1,000 bytes where its header says {len(whole):,}"):
        check(run_dir, models(run_dir))
    file.write_bytes(whole[:20])
    with pytest.raises(InputError, match="its header is cut"):
        check(run_dir, models(run_dir))


def test_a_source_that_changed_since_training_is_told(run_dir: RunDir) -> None:
    assert source_fault(run_dir, "smol-135m") == ""
    trained = Manifest(StageName.TRAIN, "", details={"models": {"smol-135m": {"identity": "another"}}})
    run_dir.write_manifest(trained, StageName.TRAIN)
    with pytest.raises(InputError, match=r"hub/smol-135m has other content than when .*\n.*put it back"):
        check(run_dir, models(run_dir))


def test_a_cell_does_not_start_from_parents_that_have_changed(run_dir: RunDir) -> None:
    require_unchanged([*parents_of(run_dir, [WHOLE, ADAPTED])])
    run_dir.local_path(*Training(WHOLE).model, "model.safetensors").unlink()
    with pytest.raises(InputError, match=f"{WHOLE}:.*\n.*model.safetensors is gone"):
        require_unchanged([*parents_of(run_dir, [WHOLE, ADAPTED])])


def test_the_card_has_the_hashes_of_a_models_own_weights(run_dir: RunDir) -> None:
    for model in models(run_dir):
        (name,) = own_hashes(RECIPE, run_dir, model)
        assert name == ("adapter.safetensors" if model.adapter else "model.safetensors")


def test_other_weights_of_the_same_cell_are_scored_again() -> None:
    saved = {"model.safetensors": {"bytes": 1, "sha256": "a"}, "config.json": {"bytes": 1, "sha256": "c"}}
    first = Manifest(StageName.TRAIN, "key", details={FILES: {MODEL: saved}})
    again = Manifest(StageName.TRAIN, "key", details={FILES: {MODEL: {**saved, "config.json": {"sha256": "d"}}}})
    other = Manifest(StageName.TRAIN, "key", details={FILES: {MODEL: {"model.safetensors": {"sha256": "b"}}}})
    assert weights_key(first, MODEL) == weights_key(again, MODEL) != weights_key(other, MODEL)
    assert weights_key(Manifest(StageName.TRAIN, "key"), MODEL) == "key" and weights_key(None, MODEL) == ""


def test_an_accuracy_of_other_weights_is_not_on_the_card(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", RECIPE, num_prompts=20, num_scored=10)
    item = (StageName.EVALUATE, WHOLE, "arithmetic")
    assert accuracies(RECIPE, run_dir, WHOLE, "w1"), "an earlier version did not record whose they are"
    run_dir.write_manifest(Manifest(StageName.EVALUATE, "k", details={"weights": "w1"}), *item)
    assert accuracies(RECIPE, run_dir, WHOLE, "w1") and not accuracies(RECIPE, run_dir, WHOLE, "w2")
