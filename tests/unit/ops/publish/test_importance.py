"""The importance matrix of a student is what llama.cpp defines, of the tensors whose columns are a layer's."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distill.ops.publish.importance import mean_squares, of_tensors, tensor_name
from tests.fixtures.gguf_files import make_gguf

ROWS = [(1, 5, 9, 4), (7, 2)]
LAYERS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=11, num_key_value_heads=1, **sizes)).eval()


def test_it_is_the_mean_of_squared_inputs_over_the_tokens_of_all_rows(model: LlamaForCausalLM) -> None:
    found = mean_squares(model, ROWS)
    block = model.model.layers[0]
    with torch.no_grad():
        inputs = [block.input_layernorm(model.model.embed_tokens(torch.tensor(row))) for row in ROWS]
    by_hand = torch.cat(inputs).square().mean(dim=0).numpy()
    assert found["model.layers.0.self_attn.q_proj"] == pytest.approx(by_hand, rel=1e-5)
    assert found.keys() == {f"model.layers.{number}.{layer}" for number in (0, 1) for layer in LAYERS}
    assert len(found["model.layers.1.mlp.down_proj"]) == 64


def test_a_second_measurement_is_the_same_and_leaves_no_hook(model: LlamaForCausalLM) -> None:
    first, second = mean_squares(model, ROWS), mean_squares(model, ROWS)
    assert all((first[name] == second[name]).all() for name in first)
    assert not [one for one in model.modules() if one._forward_pre_hooks]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_layers_have_the_names_of_the_files_tensors(architecture: str) -> None:
    for layer, name in LAYERS.items():
        assert tensor_name(architecture, 2, f"model.layers.1.{layer}") == f"blk.1.{name}.weight"
    assert tensor_name(architecture, 2, f"model.language_model.layers.0.{layer}") == f"blk.0.{name}.weight"


def test_what_a_file_has_no_name_for_has_none() -> None:
    assert tensor_name("llama", 2, "model.layers.0.mlp.novelty") is None
    assert tensor_name("no-such", 2, "model.layers.0.mlp.up_proj") is None


def test_a_tensor_whose_columns_were_changed_is_left_out(model: LlamaForCausalLM, tmp_path: Path) -> None:
    up, down, query = (
        model.get_submodule(f"model.layers.0.{name}").weight.detach().numpy()
        for name in ("mlp.up_proj", "mlp.down_proj", "self_attn.q_proj")
    )
    tensors = {
        "blk.0.attn_q.weight": query[::-1].copy(),  # llama.cpp has its own order of rows
        "blk.0.ffn_up.weight": up[:, ::-1].copy(),
        "blk.0.ffn_down.weight": down[:, :32].copy(),
    }
    importance = mean_squares(model, ROWS)
    found = of_tensors(
        importance,
        model,
        make_gguf(tmp_path / "whole.gguf", tensors, describe=lambda writer: writer.add_block_count(2)),
    )
    assert found.keys() == {"blk.0.attn_q.weight"}
    assert (found["blk.0.attn_q.weight"] == importance["model.layers.0.self_attn.q_proj"]).all()
