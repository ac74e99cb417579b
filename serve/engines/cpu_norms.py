"""Norms on vLLM's CPU engine by its compiled kernels, which it has and leaves unused.

vLLM 0.29 computes RMSNorm on CPUs in plain torch, for a compiler to fuse. Engines here are not compiled (they start in
7 seconds instead of 67, see docs/benchmarks/generation.md), so that it ran as eight passes over the activations.
Registered as a vLLM plugin in pyproject.toml.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LANES = 32
"""Numbers that the kernels take at once, at most: they refuse other widths than its multiples."""


def fits_kernel(x: torch.Tensor, weight: torch.Tensor | None) -> bool:
    """Whether the kernels take these activations [..., width]: laid out in one piece, of the weight's kind."""
    return weight is not None and weight.dtype == x.dtype and x.shape[-1] % LANES == 0 and x.is_contiguous()


def register() -> None:
    """Called by vLLM in each of its processes; does nothing on other devices than the CPU."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    import torch
    from vllm.model_executor.layers.layernorm import RMSNorm

    def forward_cpu(
        self: Any, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        weight = self.weight.data if self.has_weight else None
        fits = self.variance_size_override is None and fits_kernel(x, weight)
        if not fits or (residual is not None and not fits_kernel(residual, weight)):
            return self.forward_native(x, residual)
        if residual is None:
            output = torch.empty_like(x)
            torch.ops._C.rms_norm(output, x, weight, self.variance_epsilon)
            return output
        torch.ops._C.fused_add_rms_norm(x, residual, weight, self.variance_epsilon)
        return x, residual

    RMSNorm.forward_cpu = forward_cpu
