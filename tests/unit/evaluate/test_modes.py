"""Students that were trained with modes are scored in each of them."""

from pathlib import Path
from typing import Any

from distill.config.load import parse_recipe
from distill.core.run_dir import RunDir
from distill.evaluate.models import EvaluatedModel, endpoints, evaluated_models, same_weights, waves
from distill.evaluate.read_scores import expected_models, trained_models
from distill.evaluate.requests import items, request_rows
from distill.models.resolve import ResolvedModel
from tests.fixtures.mix_run import MODES, RECIPE, prompt, with_modes


def models_of(raw: dict[str, Any], folder: Path) -> list[EvaluatedModel]:
    recipe = parse_recipe(raw)
    resolved = ResolvedModel(**dict.fromkeys(ResolvedModel.__dataclass_fields__, "m"))  # type: ignore[arg-type]
    return evaluated_models(recipe, dict.fromkeys(recipe.models, resolved), RunDir(str(folder)))


def test_a_student_is_scored_once_in_each_mode_behind_one_endpoint(tmp_path: Path) -> None:
    recipe, models = parse_recipe(with_modes(RECIPE)), models_of(with_modes(RECIPE), tmp_path)
    assert len(set(models)) == 5, "models are keys of tables"
    assert [model.name for model in models] == ["s", "s@long", "s@short", "s@mix-long:long", "s@mix-long:short"]
    assert [one.name for one in endpoints(models)] == ["s", "s@long", "s@short", "s@mix-long"]
    assert len(set(same_weights(models).values())) == 5
    assert sorted(model.name for wave in waves(models, 1) for model in wave) == sorted(model.name for model in models)
    scores = {item.model.name: item for item in items(models, {"gsm8k": [prompt(1)]}, recipe)}
    assert scores["s@mix-long:long"].key != scores["s@mix-long:short"].key
    for mode, line in MODES.items():
        (row,) = request_rows(scores[f"s@mix-long:{mode}"], [prompt(1)], recipe)
        assert (row["model"], row["scored_as"]) == ("s@mix-long", f"s@mix-long:{mode}")
        assert row["messages"][0]["content"] == f"Be brief.\n{line}"


def test_the_report_expects_each_mode_and_each_cell_once() -> None:
    recipe = parse_recipe(with_modes(RECIPE))
    assert [model.mix for model in expected_models(recipe)] == ["", "long", "short", "mix-long:long", "mix-long:short"]
    assert [(model.name, model.mix) for model in trained_models(recipe)] == [
        ("s@long", "long"),
        ("s@short", "short"),
        ("s@mix-long", "mix-long"),
    ]
