"""Cutting what a config says per layer."""

from typing import Any

import pytest

from distill.core.errors import InputError
from distill.models.cut import cut_config, cut_value, kept_layers
from tests.fixtures.tiny_architectures import tiny


def test_layers_are_kept_evenly_with_the_first_and_the_last() -> None:
    assert kept_layers(30, 8) == [0, 4, 8, 12, 17, 21, 25, 29]
    assert kept_layers(5, 1) == [0] and kept_layers(4, 4) == [0, 1, 2, 3]
    with pytest.raises(InputError, match="keep_layers = 9, but the model has 8"):
        kept_layers(8, 9)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [("layer_types", ["a", "b", "c", "d"], ["a", "d"]), ("no_rope_layers", [1, 1, 1, 0], [1, 0]),
     ("attn_layer_indices", [1, 3], [1]), ("full_attn_idxs", [0, 2, 3], [0, 1]), ("mlp_only_layers", [], []),
     ("architectures", ["One"], ["One"]), ("mrope_section", [1, 2, 3], [1, 2, 3]),
     ("no_rope_layers", [True, False], [True, False]), ("rope_theta", 1e4, 1e4)],
)  # fmt: skip
def test_lists_per_layer_and_lists_of_layers_are_cut(name: str, value: Any, found: Any) -> None:
    assert cut_value(name, value, 4, [0, 3]) == found


def test_the_language_part_of_a_config_is_cut() -> None:
    config = tiny("gemma3 with vision").config
    cut_config(config, 2)
    assert len(config.text_config.layer_types) == config.text_config.num_hidden_layers == 2
    assert config.vision_config.num_hidden_layers == 2, "it had two"
