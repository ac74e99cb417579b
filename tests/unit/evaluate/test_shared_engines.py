"""Which students take turns in one engine."""

import json
import shutil
from pathlib import Path

import pytest

from distill.config.serve import ServeSection
from distill.evaluate.models import EvaluatedModel, endpoints, waves
from distill.evaluate.shared_engines import engines_per_class, exchange_key, share_engines
from serve.config import group_engines
from tests.fixtures.tiny_models import make_tiny_model


def _models(**sources: str) -> list[EvaluatedModel]:
    return [EvaluatedModel(name, source, None, f"key of {name}") for name, source in sources.items()]


def _labels(models: list[EvaluatedModel], section: ServeSection | None = None, at_once: int = 1) -> dict[str, str]:
    shared = share_engines(models, section or ServeSection(), at_once, key_of=lambda source: source[0])
    return {model.name: model.shared_engine for model in shared}


def test_students_of_one_shape_get_one_engine_and_another_shape_its_own() -> None:
    models = _models(untouched="x/base", short="x/short", long="x/long", other="y/base")
    labels = _labels(models)
    assert labels["untouched"] == labels["short"] == labels["long"] != ""
    assert labels["other"] == "", "nobody to share with"
    shared = share_engines(models, ServeSection(), 1, key_of=lambda source: source[0])
    specs = group_engines(endpoints(shared))
    assert [list(spec.in_turn) for spec in specs] == [["untouched", "short", "long"], []]
    assert [[model.name for model in wave] for wave in waves(shared, 1)] == [["untouched", "short", "long"], ["other"]]


def test_adapters_keep_their_base_in_an_engine_of_its_own() -> None:
    models = [*_models(base="x/base", full="x/full", more="x/more"), EvaluatedModel("lora", "x/base", "adapter", "k")]
    labels = _labels(models)
    assert labels["base"] == labels["lora"] == ""
    assert labels["full"] == labels["more"] != ""


def test_models_that_write_one_answer_together_are_apart() -> None:
    models = _models(student="x/student", helper="x/helper", other="x/other", last="x/last")
    shared = share_engines(models, ServeSection(), 1, key_of=lambda source: "x", alone={"student", "helper"})
    assert [bool(model.shared_engine) for model in shared] == [False, False, True, True]


@pytest.mark.parametrize("section", [{"share_engines": False}, {"engine": {"kwargs": {"quantization": "fp8"}}}])
def test_no_model_shares_where_the_recipe_or_an_engine_argument_forbids_it(section: dict[str, object]) -> None:
    assert set(_labels(_models(a="x/a", b="x/b"), ServeSection.model_validate(section)).values()) == {""}


def test_a_folder_that_cannot_be_read_as_a_model_shares_with_nobody() -> None:
    shared = share_engines(_models(a="x/a", b="x/b"), ServeSection(), 1, key_of=lambda source: "")
    assert {model.shared_engine for model in shared} == {""}


@pytest.mark.parametrize(
    ("sizes", "max_engines", "expected"),
    [
        ([8], 1, [1]),
        ([3, 2], 8, [3, 2]),
        ([8, 1], 4, [3, 1]),
        ([6, 2], 4, [3, 1]),
        ([5, 5], 1, [1, 1]),
        ([], 4, []),
    ],
)
def test_engines_are_taken_away_where_the_turns_stay_shortest(
    sizes: list[int], max_engines: int, expected: list[int]
) -> None:
    assert engines_per_class(sizes, max_engines) == expected


def test_only_equal_shapes_settings_and_tokenizers_have_the_same_key(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    same = Path(shutil.copytree(base, tmp_path / "same"))
    config = json.loads((same / "config.json").read_text())
    (same / "config.json").write_text(json.dumps(config | {"transformers_version": "4.57.6", "use_cache": False}))
    assert exchange_key(str(same)) == exchange_key(str(base)) != ""
    other_norm = Path(shutil.copytree(base, tmp_path / "norm"))
    (other_norm / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    other_template = Path(shutil.copytree(base, tmp_path / "template"))
    (other_template / "chat_template.jinja").write_text("{{ messages }}")
    assert len({exchange_key(str(folder)) for folder in (base, other_norm, other_template)}) == 3
    (same / "tokenizer.json").unlink()
    assert exchange_key(str(same)) == ""
