"""The element-wise parts of a decoder layer with less memory traffic, for training on CPUs.

There a layer's norms and gates take a fifth of the time and most of the activations when written as a chain of tensor
operations, each of which makes and keeps its own result. Here a norm keeps its input and one number per token, and a
gated unit its two inputs; the rest is recomputed in the backward pass. The formulas are those of the modules that they
replace, which are recognised by their parts and by what their forward takes. Each kernel is compared with the original
on the module's own weights before it is used, and the model with all of them is compared with the model as it was.
"""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value: rounding in fp32."""
PROBE_TOKENS = 12
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
"""Linear layers of a gated unit."""


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
    return RmsNorm.apply(x, norm.weight, norm.variance_epsilon, dtype)


def _gate_forward(unit: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return unit.down_proj(SiluGate.apply(unit.gate_proj(x), unit.up_proj(x)))


def use_cpu_kernels(model: PreTrainedModel) -> int:
    """Replace the forward of norms and gated units by these kernels; how many modules were changed.

    None is where the model as a whole gives other logits than before: the replaced modules are put back.
    """
    before = _probe_logits(model)
    found = 0
    for module in model.modules():
        kernel = _kernel_for(module)
        if kernel is not None and _is_same(module, kernel):
            module.forward = types.MethodType(kernel, module)
            found += 1
    if found and not _is_close(before, _probe_logits(model)):
        remove_cpu_kernels(model)
        return 0
    return found


def remove_cpu_kernels(model: PreTrainedModel) -> None:
    """Undo `use_cpu_kernels`."""
    for module in model.modules():
        if getattr(vars(module).get("forward"), "__func__", None) in (_norm_forward, _gate_forward):
            del module.forward


def _kernel_for(module: torch.nn.Module) -> Any:
    """The kernel for a module by its parts; `_is_same` checks that its formula is the expected one."""
    if not _takes_one_tensor(module):
        return None
    if hasattr(module, "variance_epsilon") and [name for name, _ in module.named_parameters()] == ["weight"]:
        return _norm_forward
    projections = [getattr(module, name, None) for name in PROJECTIONS]
    is_gated = hasattr(module, "act_fn") and all(hasattr(one, "in_features") for one in projections)
    return _gate_forward if is_gated and not _drops_out(module) else None


def _takes_one_tensor(module: torch.nn.Module) -> bool:
    """Whether the module's forward takes nothing but its input: gated norms take the gate as well."""
    return len(inspect.signature(module.forward).parameters) == 1


def _drops_out(module: torch.nn.Module) -> bool:
    # Of the unit itself. An adapter's dropout is inside the projections, which the kernel calls as they are.
    own = [
        child for name, child in module.named_modules() if not name.startswith(("gate_proj", "up_proj", "down_proj"))
    ]
    return any(isinstance(child, torch.nn.Dropout) and child.p > 0 for child in own)


def _is_same(module: torch.nn.Module, kernel: Any) -> bool:
    weight = next(module.parameters())
    width = module.gate_proj.in_features if hasattr(module, "gate_proj") else weight.shape[-1]
    x = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            return _is_close(module(x), kernel(module, x))
    except (RuntimeError, TypeError, ValueError):  # another shape or rank of input than that of a decoder layer's part
        return False
    finally:
        module.train(was_training)


def _is_close(known: torch.Tensor, found: torch.Tensor) -> bool:
    return known.shape == found.shape and bool((known - found).abs().max() <= TOLERANCE * known.abs().max())


def _probe_logits(model: PreTrainedModel) -> torch.Tensor:
    was_training = model.training
    model.eval()
    ids = torch.arange(PROBE_TOKENS)[None] % model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    model.train(was_training)
    return logits
