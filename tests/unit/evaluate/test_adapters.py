"""A student is asked as its adapter where the engine applies it, else as its merged folder."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from distill.config.students import LoraTune
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, StageName, Training
from distill.evaluate.models import EvaluatedModel, evaluated_models
from distill.models.resolve import ResolvedModel
from tests.fixtures.report_run import make_recipe


@pytest.mark.parametrize(
    ("folder_name", "is_merged"), [("model.", False), ("model.language_model.", True), ("language_model.model.", True)]
)
def test_an_adapter_that_matches_no_weight_is_served_merged(tmp_path: Path, folder_name: str, is_merged: bool) -> None:
    recipe, run_dir, base = make_recipe(), RunDir(str(tmp_path / "run")), tmp_path / "base"
    recipe = recipe.model_copy(update={"students": tuple(
        student.model_copy(update={"tune": LoraTune()}) for student in recipe.students
    )})  # fmt: skip
    base.mkdir()
    save_file({f"{folder_name}layers.0.mlp.up_proj.weight": np.zeros((2, 2))}, base / "model.safetensors")
    resolved = ResolvedModel("m", str(base), "somewhere", "id", 1, 1)
    models = dict.fromkeys(recipe.models, resolved)
    untrained = evaluated_models(recipe, models, run_dir)
    cell = next(one.name for one in untrained if "@" in one.name)
    adapter = tmp_path / "run" / Path(*Training(cell).adapter)
    adapter.mkdir(parents=True)
    save_file(
        {f"base_model.model.model.layers.0.mlp.up_proj.lora_{side}.weight": np.zeros((1, 1)) for side in "AB"},
        adapter / "adapter_model.safetensors",
    )
    run_dir.write_manifest(Manifest(StageName.TRAIN, "the cell's key"), *Training(cell).folder)
    found: EvaluatedModel = next(one for one in evaluated_models(recipe, models, run_dir) if one.name == cell)
    assert (found.adapter is None) == is_merged
    assert found.source == (run_dir.address_of(*Training(cell).model) if is_merged else str(base))
    assert (found.key != "the cell's key") == is_merged, "scores of the untouched student are not taken for its own"
