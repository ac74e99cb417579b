"""The language part of a model."""

import re

from distill.models.language_part import decoder_name, inside, language_modules, other_parts, parts_beside
from tests.fixtures.tiny_architectures import tiny


def test_a_language_model_is_all_language() -> None:
    model = tiny("llama")
    assert (decoder_name(model), other_parts(model)) == ("model", [])
    assert inside([]) is None
    assert len(list(language_modules(model))) == len(list(model.named_modules()))


def test_the_vision_tower_and_its_projector_are_other_parts() -> None:
    model = tiny("gemma3 with vision")
    assert other_parts(model) == ["model.vision_tower", "model.multi_modal_projector"]
    names = {name for name, _ in language_modules(model)}
    assert "lm_head" in names and "model.language_model.layers.3.mlp" in names
    assert not any("vision" in name for name in names)


def test_parts_are_the_outermost_modules_beside_the_decoder() -> None:
    modules = ["", "lm_head", "thinker", "thinker.audio", "thinker.audio.layers", "thinker.model", "thinker.model.norm",
               "talker", "talker.model"]  # fmt: skip
    assert parts_beside("thinker.model", modules, "lm_head") == ["thinker.audio", "talker"]
    assert parts_beside("", modules, "lm_head") == []


def test_the_pattern_takes_whole_names_only() -> None:
    pattern = inside(["model.vision"]) or ""
    assert re.fullmatch(pattern, "model.vision") and re.fullmatch(pattern, "model.vision.layers.0")
    assert not re.fullmatch(pattern, "model.vision_free.layers.0") and not re.fullmatch(pattern, "modelXvision")
