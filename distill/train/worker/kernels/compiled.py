"""torch.compile of a model's decoder layers, tried once before it is used.

Each layer is compiled for itself, with sizes left open: all layers share one compilation, and micro-batches of any
length use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distill.train.worker.kernels.attention import keeps_rows_apart
from distill.train.worker.kernels.layers import is_close
from distill.train.worker.kernels.probe import probe_logits, probe_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def compile_layers(model: PreTrainedModel, *, is_packed: bool, backend: Any = "inductor") -> str:
    """Compile the decoder layers; why they are not, in words, where they cannot be: the model is then as it was."""
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        return "its layers are not in one list"
    before = probe_logits(model)
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    try:
        reason = "" if is_close(before, probe_logits(model)) else "compiled, the model gives other outputs"
        reason = reason or ("" if not is_packed or keeps_rows_apart(model) else "compiled, packed rows are not apart")
        _try_backward(model)
    except (RuntimeError, TypeError, ValueError) as error:  # of the compiler, or of the C++ compiler that it calls
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    if reason:
        stop_compiling(model)
    return reason


def _try_backward(model: PreTrainedModel) -> None:
    model(input_ids=probe_row(model), use_cache=False).logits.float().sum().backward()
    model.zero_grad(set_to_none=True)


def stop_compiling(model: PreTrainedModel) -> None:
    """Undo `compile_layers`."""
    for layer in getattr(model.get_decoder(), "layers", None) or ():
        layer._compiled_call_impl = None
