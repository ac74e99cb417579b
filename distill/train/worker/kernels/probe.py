"""A few tokens that a model is asked before and after a change: whether it still gives its own outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOKENS = 12


def probe_row(model: PreTrainedModel, length: int = PROBE_TOKENS, seed: int = 0) -> torch.Tensor:
    """Tokens of the model's vocabulary, beside its weights: [1, length]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.get_input_embeddings().weight.shape[0], (1, length), generator=generator)
    return ids.to(model.device)


def probe_logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits of a row by itself, as a user of the model would ask for them: [1, tokens, vocabulary]."""
    with quiet(model):
        logits: torch.Tensor = model(input_ids=probe_row(model), use_cache=False).logits
    return logits


@contextmanager
def quiet(module: torch.nn.Module) -> Iterator[None]:
    """Without gradients and dropout; afterwards, also after an error, the module trains as before."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)
