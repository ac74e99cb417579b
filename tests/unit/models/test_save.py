"""Folders that transformers 4 and 5 read alike."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from distill.core.errors import InputError
from distill.models.save import (
    mended_generation_config,
    old_rotary,
    save_folder,
    try_save,
    with_old_spellings,
    with_old_tokenizer,
)
from tests.fixtures.tiny_architectures import logits_of, tiny
from tests.fixtures.tiny_models import build_tokenizer

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


pytestmark = pytest.mark.usefixtures("one_thread")


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize("name", ["llama", "gemma3", "gemma3 with vision", "smollm3", "qwen3.5", "gpt2"])
def test_a_saved_model_is_the_same_model_when_it_is_opened(tmp_path: Path, name: str) -> None:
    model = tiny(name)
    save_folder(model, build_tokenizer(), tmp_path / "m")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto").eval()
    assert torch.equal(logits_of(opened), logits_of(model))


def test_rotary_settings_and_precision_are_written_as_transformers_4_reads_them(tmp_path: Path) -> None:
    model = tiny("llama", rope_parameters={"rope_theta": 100_000.0, **YARN}, max_position_embeddings=2048)
    save_folder(model.to(torch.bfloat16), build_tokenizer(), tmp_path / "m")
    settings = read(tmp_path / "m" / "config.json")
    assert settings["rope_theta"] == settings["rope_parameters"]["rope_theta"] == 100_000.0
    assert settings["rope_scaling"] == YARN and settings["torch_dtype"] == settings["dtype"] == "bfloat16"
    again = AutoConfig.from_pretrained(tmp_path / "m")
    assert again.rope_parameters == model.config.rope_parameters


def test_nested_configs_are_written_in_both_spellings(tmp_path: Path) -> None:
    save_folder(tiny("gemma3 with vision"), build_tokenizer(), tmp_path / "m")
    text = read(tmp_path / "m" / "config.json")["text_config"]
    assert (text["rope_theta"], text["rope_local_base_freq"]) == (1_000_000.0, 10_000.0)


@pytest.mark.parametrize(
    ("new", "old"),
    [({"rope_type": "default", "rope_theta": 5e5}, {"rope_theta": 5e5}),
     ({"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
      {"rope_theta": 1e4, "partial_rotary_factor": 0.5}),
     ({"rope_theta": 1e6, **YARN}, {"rope_theta": 1e6, "rope_scaling": YARN}),
     ({"rope_theta": 1e4, "rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0],
       "original_max_position_embeddings": 4096},
      {"rope_theta": 1e4, "original_max_position_embeddings": 4096,
       "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}}),
     ({"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
       "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
      {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}})],
)  # fmt: skip
def test_rotary_settings_have_an_old_spelling(new: dict[str, Any], old: dict[str, Any]) -> None:
    assert old_rotary(new) == old


def test_what_has_no_rotary_settings_gets_none() -> None:
    assert with_old_spellings({"a": 1, "vision_config": {"dtype": "float32"}}) == {
        "a": 1,
        "vision_config": {"dtype": "float32", "torch_dtype": "float32"},
    }


def test_a_spelling_that_transformers_5_reads_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.models.save.old_rotary", lambda parameters: {"rope_scaling": {"rope_theta": 7.0}})
    model = tiny("llama")
    save_folder(model, build_tokenizer(), tmp_path / "m")
    assert "rope_scaling" not in read(tmp_path / "m" / "config.json")
    assert AutoConfig.from_pretrained(tmp_path / "m").rope_parameters == model.config.rope_parameters


def test_the_tokenizer_has_a_class_and_special_tokens_that_both_versions_know(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    save_folder(tiny("llama"), tokenizer, tmp_path / "m")
    settings = read(tmp_path / "m" / "tokenizer_config.json")
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["additional_special_tokens"] == ["<|im_start|>"] and "extra_special_tokens" not in settings
    again = AutoTokenizer.from_pretrained(tmp_path / "m")
    text = "<|im_start|>user\nhello<|im_end|>"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.all_special_tokens == tokenizer.all_special_tokens
    assert with_old_tokenizer({"tokenizer_class": "Qwen2Tokenizer"}) == {"tokenizer_class": "Qwen2Tokenizer"}


@pytest.mark.parametrize(
    ("published", "kept"),
    [({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9, "do_sample": True}),
     ({"top_k": 20, "min_p": 0.05}, {"top_k": 20, "min_p": 0.05, "do_sample": True}),
     ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"do_sample": False}),
     ({"do_sample": True, "temperature": 0.7}, {"do_sample": True, "temperature": 0.7}),
     ({"num_beams": 1, "early_stopping": True, "length_penalty": 2.0}, {"num_beams": 1}),
     ({"num_beams": 4, "early_stopping": True}, {"num_beams": 4, "early_stopping": True}),
     ({"output_scores": True}, {}), ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
     ({"use_cache": False, "cache_implementation": "static"}, {"use_cache": False}),
     ({"max_length": 4096, "eos_token_id": [1, 2]}, {"max_length": 4096, "eos_token_id": [1, 2]})],
)  # fmt: skip
def test_generation_settings_that_could_not_be_saved_are_mended(
    tmp_path: Path, published: dict[str, Any], kept: dict[str, Any]
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(published))
    mended = mended_generation_config(GenerationConfig.from_pretrained(tmp_path))
    mended.eos_token_id = mended.eos_token_id or [3]  # changed after it was read, as a student's is
    mended.save_pretrained(tmp_path)
    found = read(tmp_path / "generation_config.json")
    found.pop("transformers_version")
    assert found == {"eos_token_id": [3], **kept}


def test_a_student_that_could_not_be_saved_is_refused_before_it_is_trained() -> None:
    model = tiny("llama")
    try_save(model, build_tokenizer())
    model.config.own = object()  # no JSON
    with pytest.raises(InputError, match="what is trained from it could not be saved"):
        try_save(model, build_tokenizer())
