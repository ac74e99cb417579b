"""Replaces the norms and gated units of a model's layers by faster kernels, where these compute the same.

The modules are recognised by their parts and by what their forward takes. A kernel is compared with the original on the
module's own weights, output and gradient, before it is used, and the model with all of them with the model as it was.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from distill.train.worker.kernels.probe import probe_logits, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCES = {torch.float32: 1e-4}
"""Largest difference, relative to the largest value: rounding."""
ROUGH_TOLERANCE = 0.03
"""The same for numbers of 16 bits."""
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
"""Linear layers of a gated unit."""

Forward = Callable[[Any, torch.Tensor], torch.Tensor]
"""In place of a module's forward: from the module and its input to its output."""


class LayerKernels(NamedTuple):
    """Kernels of one origin. A module takes the first of its kind that computes the same as its own forward."""

    name: str
    norms: tuple[Forward, ...]
    gates: tuple[Forward, ...]
    errors: tuple[type[Exception], ...] = ()
    """What its compiler raises where it cannot build a kernel."""


def use_layer_kernels(model: PreTrainedModel, kernels: LayerKernels) -> int:
    """Replace the forward of norms and gated units; how many modules were changed.

    None is where the model as a whole gives other logits than before: the replaced modules are put back.
    """
    before = probe_logits(model)
    found = 0
    for module in model.modules():
        forward = next((one for one in _candidates(module, kernels) if _is_same(module, one, kernels.errors)), None)
        if forward is not None:
            module.forward = module.layer_kernel = types.MethodType(forward, module)
            found += 1
    if found and not is_close(before, probe_logits(model)):
        remove_layer_kernels(model)
        return 0
    return found


def remove_layer_kernels(model: PreTrainedModel) -> None:
    """Undo `use_layer_kernels`."""
    for module in model.modules():
        ours = vars(module).pop("layer_kernel", None)
        if ours is not None and vars(module).get("forward") is ours:
            del module.forward


def _candidates(module: torch.nn.Module, kernels: LayerKernels) -> tuple[Forward, ...]:
    """The kernels for a module by its parts; `_is_same` checks that their formula is the expected one."""
    if not _takes_one_tensor(module):
        return ()
    if epsilon_of(module) is not None and [name for name, _ in module.named_parameters()] == ["weight"]:
        return kernels.norms
    projections = [getattr(module, name, None) for name in PROJECTIONS]
    is_gated = hasattr(module, "act_fn") and all(hasattr(one, "in_features") for one in projections)
    return kernels.gates if is_gated and not _drops_out(module) else ()


def epsilon_of(norm: torch.nn.Module) -> float | None:
    """What a norm adds to its variance; None where the module is no norm."""
    return getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None)


def _takes_one_tensor(module: torch.nn.Module) -> bool:
    """Whether the module's forward takes nothing but its input: gated norms take the gate as well."""
    return len(inspect.signature(module.forward).parameters) == 1


def _drops_out(module: torch.nn.Module) -> bool:
    # Of the unit itself. An adapter's dropout is inside the projections, which the kernel calls as they are.
    own = [child for name, child in module.named_modules() if not name.startswith(PROJECTIONS)]
    return any(isinstance(child, torch.nn.Dropout) and child.p > 0 for child in own)


def _is_same(module: torch.nn.Module, forward: Forward, compiler_errors: tuple[type[Exception], ...]) -> bool:
    # Ours: the module takes another shape of input than a decoder layer's part.
    errors: tuple[type[Exception], ...] = (RuntimeError, TypeError, ValueError, *compiler_errors)
    weight = next(module.parameters())
    width = module.gate_proj.in_features if hasattr(module, "gate_proj") else weight.shape[-1]
    generator = torch.Generator().manual_seed(0)
    x, towards = (torch.randn(1, 3, width, generator=generator).to(weight) for _ in range(2))
    try:
        with quiet(module):
            known, found = (_with_gradient(one, x, towards) for one in (module, types.MethodType(forward, module)))
            return all(map(is_close, known, found))
    except errors:
        return False


def _with_gradient(
    forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, towards: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output, and the gradient of the input by it in a direction."""
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        output = forward(leaf)
        (gradient,) = torch.autograd.grad(output, leaf, towards.to(output.dtype))
    return output.detach(), gradient


def is_close(known: torch.Tensor, found: torch.Tensor) -> bool:
    """Whether two results are the same up to rounding."""
    tolerance = TOLERANCES.get(known.dtype, ROUGH_TOLERANCE)
    return known.shape == found.shape and bool((known - found).abs().max() <= tolerance * known.abs().max())
