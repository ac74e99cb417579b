"""Which architectures llama.cpp's converter, as auto-round carries it, can be had for."""

from typing import Any

import pytest

from distill.ops.publish.gguf_job import converter

conversions = pytest.importorskip("auto_round.export.export_to_gguf.llama_cpp_conversion")


@pytest.fixture(scope="module")
def conversion() -> Any:
    return conversions.get_conversion(auto_update=False)


@pytest.mark.parametrize(
    "architecture",
    [
        "LlamaForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "Gemma3ForCausalLM",
        "Phi3ForCausalLM",
        "GraniteForCausalLM",
    ],
)
def test_an_architecture_that_gguf_knows_has_its_converter_whatever_its_neighbours_need(
    conversion: Any, architecture: str
) -> None:
    assert converter(conversion, architecture).model_arch is not None


def test_what_nobody_knows_is_refused(conversion: Any) -> None:
    with pytest.raises(NotImplementedError):
        converter(conversion, "NoSuchForCausalLM")
