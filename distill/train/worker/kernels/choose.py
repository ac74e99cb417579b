"""Which kernels a cell is trained with: the recipe's choice, or what is at hand where it leaves the choice open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from distill.train.worker.kernels.attention import Packing, use_packed_attention
from distill.train.worker.kernels.compiled import compile_layers
from distill.train.worker.kernels.cpu import CPU
from distill.train.worker.kernels.layers import use_layer_kernels
from distill.train.worker.kernels.liger import has_liger, liger_kernels

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from distill.config.train import KernelChoice
    from distill.train.layout import Device

Kernels = Literal["cpu", "liger", "compile", "torch"]


class Computed(NamedTuple):
    """How a model is computed."""

    packing: Packing
    kernels: str
    """In words, for the manifest and the log."""


def resolve_kernels(choice: KernelChoice, device: Device, *, has_liger: bool) -> Kernels:
    """The kernels to try. Left open: ours on a CPU, on a GPU Liger's where they are installed."""
    if choice == "auto":
        return "cpu" if device == "cpu" else "liger" if has_liger else "torch"
    return choice


def use_kernels(model: PreTrainedModel, choice: KernelChoice, device: Device) -> Computed:
    """Switch a model to the kernels of a cell. What it does not support, and what is missing, is said in words."""
    wanted = resolve_kernels(choice, device, has_liger=has_liger())
    if wanted == "liger" and (why := why_no_liger(device, is_installed=has_liger())):
        return Computed(use_packed_attention(model), f"torch ({why})")
    if wanted in ("cpu", "liger"):
        count = use_layer_kernels(model, CPU if wanted == "cpu" else liger_kernels())
        told = f"{wanted} ({count} modules)" if count else f"torch (no module computes as the {wanted} kernels do)"
        return Computed(use_packed_attention(model), told)
    packing = use_packed_attention(model)
    if wanted == "torch":
        return Computed(packing, "torch")
    reason = compile_layers(model, is_packed=bool(packing.attention))
    return Computed(packing, f"torch (not compiled: {reason})" if reason else "compile")


def why_no_liger(device: Device, *, is_installed: bool) -> str:
    """Why Liger's kernels cannot be used here; empty where they can."""
    if device == "cpu":
        return "Liger's kernels need a GPU"
    return "" if is_installed else "liger-kernel is not installed"
