"""What a model keeps for its backward pass, told without computing anything."""

from typing import Any

import pytest
import torch
import transformers

from distill.models.activations import kept_bytes_per_token
from distill.train.worker.kernels.attention import use_packed_attention
from tests.fixtures.tiny_architectures import ARCHITECTURES, tiny


def on_meta(name: str, dtype: torch.dtype) -> Any:
    model, config, values = ARCHITECTURES[name]
    with torch.device("meta"):
        built = getattr(transformers, model)(getattr(transformers, config)(**values))
    return built.to(dtype)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "olmo2"])
def test_it_is_what_the_model_keeps_when_it_computes(name: str) -> None:
    """The same count on real tensors; ours keeps attention's inputs and output, torch's some numbers per head more."""
    model = tiny(name).train()
    use_packed_attention(model)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_decoder()(input_ids=torch.zeros(1, 128, dtype=torch.long), use_cache=False)
    computed = sum(storage.nbytes() for storage in kept.values()) / 128
    assert kept_bytes_per_token(on_meta(name, torch.float32)) == pytest.approx(computed, rel=0.1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_known_for_every_architecture(name: str) -> None:
    assert kept_bytes_per_token(on_meta(name, torch.bfloat16)) > 4_000
