"""Adapters that an engine would not apply are known by their names."""

from distill.models.adapters import adapted_modules, unmatched_modules

LAYERS = [f"layers.{number}.{part}" for number in (0, 1) for part in ("self_attn.q_proj", "mlp.down_proj")]


def adapter(prefix: str) -> list[str]:
    return [f"base_model.model.{prefix}{layer}.lora_{side}.weight" for layer in LAYERS for side in "AB"]


def weights(prefix: str) -> list[str]:
    return [f"{prefix}{layer}.weight" for layer in LAYERS] + ["model.visual.blocks.0.attn.qkv.weight"]


def test_modules_are_named_as_in_the_model() -> None:
    assert adapted_modules(adapter("model.")) == sorted(f"model.{layer}" for layer in LAYERS)
    names = ["base_model.model.model.embed_tokens.lora_embedding_A", "base_model.model.lm_head.lora_B.default.weight"]
    assert adapted_modules(names) == ["lm_head", "model.embed_tokens"]


def test_an_adapter_of_the_same_names_matches() -> None:
    assert unmatched_modules(adapter("model."), weights("model.")) == []
    assert unmatched_modules(adapter("model.language_model."), weights("model.language_model.")) == []
    assert unmatched_modules([], weights("model.")) == []


def test_an_adapter_of_the_language_model_alone_does_not_match_a_model_with_a_vision_part() -> None:
    missing = unmatched_modules(adapter("model."), weights("model.language_model."))
    assert missing == sorted(f"model.{layer}" for layer in LAYERS)


def test_a_single_module_without_a_weight_is_found() -> None:
    names = [*adapter("model."), "base_model.model.lm_head.lora_A.weight"]
    assert unmatched_modules(names, weights("model.")) == ["lm_head"], "tied: the file has no output layer of its own"
