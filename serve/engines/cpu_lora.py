"""Low-rank adapters on vLLM's CPU engine: correct for requests without an adapter, and about ten times faster.

vLLM 0.29 copies an adapter's weights once per token of the batch, and gives requests for the plain weights (index -1)
the adapter of the last slot while they decode. Here rows of one adapter are multiplied together, and plain rows are
skipped. Registered as a vLLM plugin in pyproject.toml, so that every process of an engine loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

REPLACED = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")


def bgmv_shrink(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, indices: torch.Tensor, scaling: float = 1.0
) -> None:
    """`output[t] = scaling * A[indices[t]] @ inputs[t]`; 0 where the index is negative.

    Args:
        inputs: [tokens, in].
        weights: [adapters, (1,) rank, in].
        output: [tokens, >= rank], written.
        indices: [tokens], adapter of each token.
        scaling: factor.
    """
    for rows, weight in _groups(weights, indices):
        if weight is None:
            output[rows, : weights.shape[-2]] = 0
        else:
            output[rows, : weight.shape[0]] = scaling * (inputs[rows].to(output.dtype) @ weight.to(output.dtype).T)


def bgmv_expand(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, indices: torch.Tensor, add_inputs: bool = True
) -> None:
    """`output[t] (+)= B[indices[t]] @ inputs[t]` over the columns that both have; shapes as in `bgmv_shrink`."""
    width = min(weights.shape[-2], output.shape[1])
    _expand(inputs, weights, output[:, :width], indices, add_inputs=add_inputs)


def bgmv_expand_slice(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    indices: torch.Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """`bgmv_expand` into the columns [slice_offset, slice_offset + slice_size)."""
    target = output[:, slice_offset : slice_offset + slice_size]
    _expand(inputs, weights, target, indices, add_inputs=add_inputs)


def _expand(
    inputs: torch.Tensor, weights: torch.Tensor, target: torch.Tensor, indices: torch.Tensor, *, add_inputs: bool
) -> None:
    for rows, weight in _groups(weights, indices):
        if weight is None:
            if not add_inputs:
                target[rows] = 0
            continue
        product = inputs[rows].to(target.dtype) @ weight[: target.shape[1]].to(target.dtype).T
        target[rows] = target[rows] + product if add_inputs else product


def _groups(weights: torch.Tensor, indices: torch.Tensor) -> Iterator[tuple[Any, torch.Tensor | None]]:
    """Rows that share an adapter, with its weights; None for plain rows. One adapter for all rows needs no copy."""
    present = indices.unique().tolist()
    for index in present:
        rows = slice(None) if len(present) == 1 else (indices == index).nonzero().squeeze(1)
        weight = weights[index] if index >= 0 else None
        yield rows, weight.reshape(weight.shape[-2:]) if weight is not None else None


def register() -> None:
    """Called by vLLM in each of its processes; does nothing on other devices than the CPU."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for name in REPLACED:
        for module in (lora_ops, punica_cpu):  # the second bound the names when it was imported
            setattr(module, name, globals()[name])
