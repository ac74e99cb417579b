"""What a model keeps for its backward pass, measured on tensors without memory: exact for its own layers, in a second.

Attention is replaced by one that keeps its inputs and its output, as fused attention does; the score matrix of the
plain one never exists in training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOKENS = 128
"""Of the row that is measured: enough that what does not grow with it counts for nothing."""
ATTENTION = "sizes_only"


def kept_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes that the decoder's layers keep per token of a row, without checkpointing, in the precision of the model.

    0 where it cannot be measured: the model looks at values. `model`: on the meta device; its attention is replaced
    for good.
    """
    import torch
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attend)
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that no other gets its address
        return tensor

    ids = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    try:
        model.set_attn_implementation(ATTENTION)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.train().get_decoder()(input_ids=ids, use_cache=False)
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return 0
    total = sum(int(storage.nbytes()) for storage in kept.values())
    return round(total / TOKENS)


def _attend(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    import torch

    class Attended(torch.autograd.Function):
        """Keeps what fused attention keeps, and computes nothing. There is no backward pass."""

        @staticmethod
        def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            """[1, heads, tokens, width], as wide as the values."""
            attended = query.new_empty(*query.shape[:-1], value.shape[-1])
            ctx.save_for_backward(query, key, value, attended)
            return attended

    return Attended.apply(query, key, value).transpose(1, 2).contiguous(), None
