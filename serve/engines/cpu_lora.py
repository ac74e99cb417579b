"""Low-rank adapters on vLLM's CPU engine: correct for requests without an adapter, and about ten times faster.

vLLM 0.29 copies an adapter's weights once per token of the batch, and gives requests for the plain weights (index -1)
the adapter of the last slot while they decode. Here rows of one adapter are multiplied together, and plain rows are
skipped; where a whole batch has one adapter, as in an evaluation, its two products are added in place. Registered as a
vLLM plugin in pyproject.toml, so that every process of an engine loads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def add_lora(
    output: torch.Tensor,
    inputs: torch.Tensor,
    downs: Sequence[torch.Tensor],
    ups: Sequence[torch.Tensor],
    scaling: float,
    widths: Sequence[int],
) -> None:
    """`output += scaling * B @ A @ inputs` of one adapter for all rows, slice by slice of the columns.

    What lies between the products is rounded to the weights' precision, as in vLLM's kernels for GPUs.

    Args:
        output: [tokens, at least the sum of widths], written.
        inputs: [tokens, in].
        downs: A of each slice, [rank, in].
        ups: B of each slice, [width, rank].
        scaling: factor.
        widths: columns of each slice.
    """
    begin = 0
    for down, up, width in zip(downs, ups, widths, strict=True):
        output[:, begin : begin + width].addmm_(inputs @ down.T, up.T, alpha=scaling)
        begin += width


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
    wrapper = punica_cpu.PunicaWrapperCPU
    update_metadata, add_lora_linear = wrapper.update_metadata, wrapper.add_lora_linear

    def updated(self: Any, *args: Any, **kwargs: Any) -> None:
        update_metadata(self, *args, **kwargs)
        present = self.token_lora_indices.unique().tolist()
        self.only_adapter = present[0] if len(present) == 1 else None

    def added(
        self: Any,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Any,
        lora_b_stacked: Any,
        scale: float,
        widths: Any,
        **kwargs: Any,
    ) -> None:
        adapter = self.only_adapter
        if adapter is None or lora_a_stacked[0].dtype != x.dtype:
            add_lora_linear(self, y, x, lora_a_stacked, lora_b_stacked, scale, widths, **kwargs)
        elif adapter >= 0:
            downs, ups = ([weights[adapter, 0] for weights in part] for part in (lora_a_stacked, lora_b_stacked))
            add_lora(y, x, downs, ups, scale, widths)

    wrapper.only_adapter = None
    wrapper.update_metadata, wrapper.add_lora_linear = updated, added
