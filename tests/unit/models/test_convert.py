"""A matrix that a GGUF file holds twice is one again; two that differ stay two."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distill.models.convert import tie_copies


def untied() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, tie_word_embeddings=False, **sizes))


def test_two_quantisations_of_one_matrix_are_tied_to_the_finer_one() -> None:
    model = untied()
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    finer = head.detach().clone()
    table.data = finer + 0.05 * finer.std() * torch.randn_like(finer)
    tie_copies(model)
    assert model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, finer)


def test_an_output_layer_of_its_own_stays() -> None:
    model = untied()
    before = model.get_input_embeddings().weight.detach().clone()
    tie_copies(model)
    assert not model.config.tie_word_embeddings and torch.equal(model.get_input_embeddings().weight, before)


def test_a_tied_model_is_left_alone() -> None:
    model = untied()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    tie_copies(model)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
