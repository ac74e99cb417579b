"""Endpoints, settings of the server, and which endpoints share an engine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serve.client import question_turns
from serve.config import Endpoint, ServeConfig, adapter_rank, group_engines


def endpoint(name: str, source: str = "weights", adapter: str | None = None) -> Endpoint:
    return Endpoint(name=name, source=source, adapter=adapter)


def save_adapter(folder: Path, **settings: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, **settings}))
    return str(folder)


def test_config_imports_neither_ray_nor_vllm_nor_torch() -> None:
    heavy = "{'ray', 'vllm', 'torch', 'transformers'}"
    code = f"import sys, serve.config, serve.errors; sys.exit(bool({heavy} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_adapters_and_plain_weights_of_one_source_share_an_engine() -> None:
    ranks = {"a": 8, "b": 12}
    specs = group_engines(
        [endpoint("m"), endpoint("m@long", adapter="a"), endpoint("m@short", adapter="b")], rank_of=ranks.__getitem__
    )
    assert len(specs) == 1
    assert [adapter.name for adapter in specs[0].adapters] == ["m@long", "m@short"]
    assert specs[0].base_model == "m"
    assert specs[0].max_lora_rank == 16


def test_full_weight_students_have_engines_of_their_own_in_the_order_given() -> None:
    specs = group_engines([endpoint("m@long", "run/long"), endpoint("m", "base"), endpoint("m@mix", "run/mix")])
    assert [spec.source for spec in specs] == ["run/long", "base", "run/mix"]
    assert all(not spec.adapters for spec in specs)
    assert len({spec.name for spec in specs}) == 3


def test_an_engine_starts_on_demand_only_where_all_its_models_may() -> None:
    rare, often = endpoint("m").model_copy(update={"on_demand": True}), endpoint("m@long", adapter="a")
    (shared,) = group_engines([rare, often], rank_of=lambda _: 8)
    (alone,) = group_engines([rare])
    assert (shared.is_on_demand, alone.is_on_demand) == (False, True)


def test_plain_weights_without_an_endpoint_of_their_own_are_not_served() -> None:
    (spec,) = group_engines([endpoint("m@long", adapter="a")], rank_of=lambda _: 8)
    assert spec.base_model not in {e.name for e in spec.endpoints}


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "a b", "@a", "ä"])
def test_a_name_that_a_url_or_ray_would_misread_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="endpoint name"):
        endpoint(name)


@pytest.mark.parametrize(
    ("endpoints", "message"),
    [
        ([], "nothing to serve"),
        ([endpoint("m", "x"), endpoint("m", "y")], "names must differ"),
        ([endpoint("m"), endpoint("n")], "same weights"),
        ([endpoint("m@a"), endpoint("m+a", "other")], "differ only in punctuation"),
    ],
)
def test_clashing_endpoints_are_refused(endpoints: list[Endpoint], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_engines(endpoints)


def test_the_rank_covers_modules_with_a_rank_of_their_own(tmp_path: Path) -> None:
    assert adapter_rank(save_adapter(tmp_path, r=8, rank_pattern={"q_proj": 24})) == 24


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "modules_to_save"), ({"r": 1024}, "rank 1024")],
)
def test_an_adapter_that_the_engine_cannot_hold_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adapter_rank(save_adapter(tmp_path, **settings))


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no LoRA adapter"):
        adapter_rank(str(tmp_path))


@pytest.mark.parametrize("key", ["model", "max_model_len", "lora_modules"])
def test_engine_arguments_that_endpoints_decide_are_refused(key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        ServeConfig(engine_kwargs={key: 1})


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_modellen"):
        ServeConfig.model_validate({"max_modellen": 512})


def test_a_question_has_the_format_that_the_model_was_trained_with() -> None:
    card = {"system": "Answer.", "template": "Q: {problem}"}
    assert question_turns("{1} + 1?", card) == [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": "Q: {1} + 1?"},
    ]
    shown = [{"role": "user", "content": "Q: 2?"}, {"role": "assistant", "content": "2"}]
    asked = question_turns("1 + 1?", card | {"system": "", "examples": shown})
    assert asked == [{"role": "system", "content": ""}, *shown, {"role": "user", "content": "Q: 1 + 1?"}]
    assert question_turns("1 + 1?", {}) == [{"role": "user", "content": "1 + 1?"}]


def test_replicas_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_replicas = 4"):
        ServeConfig(min_replicas=4, max_replicas=2)
