"""Students that were trained with modes are scored in each of them."""

from pathlib import Path
from typing import Any

from distill.config.load import parse_recipe
from distill.core.run_dir import RunDir
from distill.evaluate.arms import arm_models
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


def choosing(raw: dict[str, Any]) -> dict[str, Any]:
    """A raw recipe whose last mix has modes that its student writes itself, and is left to choose."""
    *others, last = with_modes(raw)["mixes"]
    evaluate = raw.get("evaluate", {}) | {"arms": [{"of": "s@mix-long", "mode": "auto"}]}
    return raw | {"mixes": [*others, last | {"modes_in": "completion"}], "evaluate": evaluate}


def test_a_student_that_writes_its_mode_is_asked_alike_and_begun_in_each_or_left_to_choose(tmp_path: Path) -> None:
    raw = choosing(RECIPE)
    recipe, models = parse_recipe(raw), models_of(raw, tmp_path)
    models += arm_models(recipe, models)
    assert [model.name for model in models][-3:] == ["s@mix-long:long", "s@mix-long:short", "s@mix-long+auto"]
    assert len(set(same_weights(models).values())) == len(models)
    scores = {item.model.name: item for item in items(models, {"gsm8k": [prompt(1)]}, recipe)}
    assert len({item.key for name, item in scores.items() if "@mix-long" in name}) == 3
    for name, mode in {"s@mix-long:long": "long", "s@mix-long:short": "short", "s@mix-long+auto": "auto"}.items():
        (row,) = request_rows(scores[name], [prompt(1)], recipe)
        assert row["messages"][0]["content"] == "Be brief." and row["sampling"]["mode"] == mode
    assert endpoints(models)[-1].mode_openings == {mode: f"{line}\n" for mode, line in MODES.items()}
