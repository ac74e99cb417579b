"""The element-wise parts of a decoder layer with less memory traffic, for training on CPUs.

There a layer's norms and gates take a fifth of the time and most of the activations when written as a chain of tensor
operations, each of which makes and keeps its own result. Here a norm keeps its input and one number per token, and a
gated unit its two inputs; the rest is recomputed in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from distill.train.worker.kernels.layers import LayerKernels, epsilon_of


class RmsNorm(torch.autograd.Function):
    """`(x, weight, epsilon, dtype)`: `weight * x / sqrt(mean(x^2) + epsilon)` over the last axis, in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype) -> torch.Tensor:
        """Keeps x and one number per token."""
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        scale = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x and weight."""
        x, weight, scale = ctx.saved_tensors
        normal = x * scale
        gradient = gradient.to(normal.dtype)
        to_weight = None
        if ctx.needs_input_grad[1]:
            # Not einsum: ten times slower, on one core.
            to_weight = (gradient * normal).flatten(0, -2).sum(dim=0)
        scaled = gradient * weight
        share = torch.linalg.vecdot(scaled, normal).div_(x.shape[-1]).unsqueeze_(-1)
        to_x = scaled.addcmul_(normal, share, value=-1).mul_(scale)
        return to_x, to_weight, None, None


class SiluGate(torch.autograd.Function):
    """`(gate, up)`: `silu(gate) * up`, keeping no more than these two."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """The gated values."""
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of gate and up."""
        gate, up = ctx.saved_tensors
        to_up = functional.silu(gate).mul_(gradient)
        return torch.ops.aten.silu_backward(gradient * up, gate), to_up


def _norm_forward(norm: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return RmsNorm.apply(x, norm.weight, epsilon_of(norm), dtype)


def _gate_forward(unit: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return unit.down_proj(SiluGate.apply(unit.gate_proj(x), unit.up_proj(x)))


CPU = LayerKernels("cpu", norms=(_norm_forward,), gates=(_gate_forward,))
"""For the modules of Llama, Qwen and others alike; a norm with another formula keeps its own."""
