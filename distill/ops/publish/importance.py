"""The importance matrix of a student, as llama.cpp defines it: how large the inputs of its layers are.

Per tensor the mean of the squared inputs of each column, over all tokens. Rounding then errs less where the inputs are
large. llama.cpp's own program that measures it is in none of the packages; here the student's own code runs the tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.ops.publish.kept import weights
from distill.ops.publish.quantise import Importance

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def mean_squares(model: PreTrainedModel, rows: Iterable[Sequence[int]]) -> Importance:
    """Linear layer -> mean of the squares of its inputs over the tokens that reached it.

    The head that writes the words is not run: llama.cpp leaves it out as well.

    Args:
        model: of transformers.
        rows: token ids, each by itself.
    """
    import torch

    sums: dict[str, torch.Tensor] = {}
    counts: Counter[str] = Counter()

    def add(name: str, inputs: torch.Tensor) -> None:
        flat = inputs.reshape(-1, inputs.shape[-1]).float()
        sums[name] = sums.get(name, 0.0) + flat.square().sum(dim=0).double()
        counts[name] += len(flat)

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: add(name, inputs[0]))
        for name, module in linear_layers(model).items()
    ]
    with torch.inference_mode():
        for row in rows:
            model.eval().get_decoder()(input_ids=torch.tensor([row]), use_cache=False)
    for hook in hooks:
        hook.remove()
    # A layer that no token reached has a sum of no tokens: an expert that was never chosen.
    return {name: (one / counts[name]).float().numpy() for name, one in sums.items() if counts[name]}


def linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """Name -> layer. Experts that are stored as one tensor are no such layers."""
    import torch

    return {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}


def tensor_name(architecture: str, num_blocks: int, layer: str) -> str | None:
    """What a layer's weights are called in a GGUF file; None: that has no name for them.

    Args:
        architecture: as the file calls it.
        num_blocks: of the model.
        layer: as transformers calls it.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    number = next((number for number, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
    if number is None:
        return None
    # The converter takes the language part of a model with others out of its names, too.
    found = get_tensor_name_map(number, num_blocks).get_name(layer.replace("language_model.", ""))
    return None if found is None else f"{found}.weight"


def of_tensors(importance: Importance, model: PreTrainedModel, whole: str) -> Importance:
    """Tensor of a GGUF file -> its importance, of those whose columns are a layer's.

    A converter may reorder, split or scale columns. What a column weighs shows it: such a tensor is left out.

    Args:
        importance: of the model's layers.
        model: that it was measured on.
        whole: the model's GGUF file, not quantised.
    """
    from gguf import GGUFReader

    reader = GGUFReader(whole)
    architecture = reader.get_field("general.architecture").contents()
    num_blocks = int(reader.get_field(f"{architecture}.block_count").contents())
    tensors = {one.name: one for one in reader.tensors}
    layers, found = linear_layers(model), {}
    for layer, values in importance.items():
        name = tensor_name(architecture, num_blocks, layer)
        tensor = tensors.get(name or "")
        if tensor is not None and has_same_columns(tensor, layers[layer].weight):
            found[tensor.name] = values
    return found


def has_same_columns(tensor: Any, weight: torch.Tensor) -> bool:
    """Whether the columns of a GGUF file's tensor are those of a layer's weights, its rows in any order."""
    stored = weights(tensor)
    own = weight.detach().float().numpy()
    if stored.shape != own.shape:
        return False
    return bool(np.allclose(np.linalg.norm(stored, axis=0), np.linalg.norm(own, axis=0), rtol=1e-2))
