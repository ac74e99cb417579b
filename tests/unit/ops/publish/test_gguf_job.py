"""Which architectures llama.cpp's converter, as auto-round carries it, can be had for."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from distill.ops.publish.gguf_job import converter
from distill.ops.publish.kept import kept_shares
from tests.fixtures.gguf_files import make_gguf

TENSOR = "blk.0.ffn_down.weight"

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


@pytest.mark.parametrize(("was_quantised", "low", "high"), [(False, 0.9, 1.1), (True, -0.1, 0.2)])
def test_a_file_tells_what_it_keeps_of_the_training(
    tmp_path: Path, was_quantised: bool, low: float, high: float
) -> None:
    few = gguf.GGMLQuantizationType.Q4_0
    rng = np.random.default_rng(0)
    base = rng.normal(0.0, 0.03, (256, 256)).astype(np.float32)
    if was_quantised:
        base = gguf.quants.dequantize(gguf.quants.quantize(base, few), few)
    student = base + (0.01 * np.abs(base).mean() * rng.normal(size=base.shape)).astype(np.float32)
    before, whole = (
        make_gguf(tmp_path / "base.gguf", {TENSOR: base}),
        make_gguf(tmp_path / "whole.gguf", {TENSOR: student}),
    )
    coarse = make_gguf(tmp_path / "q4.gguf", {TENSOR: student}, kind=few)
    kept = kept_shares(before, whole, [whole, coarse])
    assert kept[whole] == pytest.approx(1.0)
    assert kept[coarse] is not None and low < kept[coarse] < high
    assert kept_shares(before, before, [before]) == {before: None}, "nothing was trained"
