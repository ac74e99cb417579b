"""Liger's Triton kernels for norms and gated units (arXiv 2410.10989), where liger-kernel is installed.

Only its operators are called. Its own patching replaces the classes of transformers for the whole process, so that the
student which is opened again on the CPU after training would have GPU kernels.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from distill.train.worker.kernels.layers import LayerKernels, epsilon_of


def has_liger() -> bool:
    """Whether liger-kernel is installed."""
    return find_spec("liger_kernel") is not None


def liger_kernels() -> LayerKernels:
    """The kernels; liger-kernel must be installed. Which of them fits a module is found by comparing."""
    from triton.errors import TritonError

    return LayerKernels("liger", norms=(_norm, _offset_norm), gates=(_silu_gate, _gelu_gate), errors=(TritonError,))


def _norm(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """As Llama's: rounded to the input's type before it is multiplied by the weight."""
    return _rms_norm(norm, x, 0.0, "llama")


def _offset_norm(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """As Gemma's: multiplied by 1 + weight, in fp32."""
    return _rms_norm(norm, x, 1.0, "gemma")


def _rms_norm(norm: Any, x: torch.Tensor, offset: float, casting: str) -> torch.Tensor:
    from liger_kernel.ops import LigerRMSNormFunction

    # Not in place: the gradient that comes in may be another module's as well.
    found: torch.Tensor = LigerRMSNormFunction.apply(x, norm.weight, epsilon_of(norm), offset, casting, False)
    return found


def _silu_gate(unit: Any, x: torch.Tensor) -> torch.Tensor:
    from liger_kernel.ops import LigerSiLUMulFunction

    found: torch.Tensor = unit.down_proj(LigerSiLUMulFunction.apply(unit.gate_proj(x), unit.up_proj(x)))
    return found


def _gelu_gate(unit: Any, x: torch.Tensor) -> torch.Tensor:
    """GELU by its tanh approximation."""
    from liger_kernel.ops import LigerGELUMulFunction

    found: torch.Tensor = unit.down_proj(LigerGELUMulFunction.apply(unit.gate_proj(x), unit.up_proj(x)))
    return found
