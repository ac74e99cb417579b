"""The probe of a model before and after a change."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distill.train.worker.kernels.probe import PROBE_TOKENS, probe_logits, probe_row, quiet


@pytest.mark.parametrize("is_training", [True, False])
def test_a_module_trains_as_before_also_after_an_error(is_training: bool) -> None:
    module = torch.nn.Dropout(0.5).train(is_training)
    with pytest.raises(ValueError, match="refused"), quiet(module):
        assert not module.training and not torch.is_grad_enabled()
        raise ValueError("refused")
    assert module.training is is_training and torch.is_grad_enabled()


def test_the_probe_asks_the_same_tokens_each_time_and_leaves_the_model_as_it_was() -> None:
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).train()
    first, second = probe_logits(model), probe_logits(model)
    assert first.shape == (1, PROBE_TOKENS, 50) and torch.equal(first, second)
    assert model.training and not first.requires_grad
    assert torch.equal(probe_row(model, 5, seed=3), probe_row(model, 5, seed=3))
    assert not torch.equal(probe_row(model, 5, seed=3), probe_row(model, 5, seed=4))
