"""Cutting a model to fewer decoder layers: of the model itself, and of its config alone.

A config says many things per layer: lists with an entry for each layer (`layer_types`, `no_rope_layers`), and lists of
layer numbers (`attn_layer_indices`). All of them are cut; whether that was all is seen when the cut model is written,
opened and compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distill.core.errors import InputError
from distill.models.language_part import decoder_name

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

NUMBER_LISTS = ("_indices", "_idxs", "_ids", "_layers", "layers_to_transform")
"""Endings of the names of lists that hold numbers of layers."""


def kept_layers(num_layers: int, keep: int) -> list[int]:
    """Indices of the `keep` decoder layers that are kept of `num_layers`: evenly spaced, with the first and the last.

    Raises:
        InputError: `keep` is larger than `num_layers`.
    """
    if keep > num_layers:
        raise InputError(f"keep_layers = {keep}, but the model has {num_layers} -> keep at most {num_layers}")
    if keep == 1:
        return [0]
    return [round(index * (num_layers - 1) / (keep - 1)) for index in range(keep)]


def cut_value(name: str, value: Any, num_layers: int, kept: list[int]) -> Any:
    """What a setting becomes when only the layers `kept` of `num_layers` stay; other settings as they are."""
    if not isinstance(value, list | tuple) or not value:
        return value
    if len(value) == num_layers:
        return [value[index] for index in kept]
    are_numbers = all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < num_layers for one in value)
    if are_numbers and name.endswith(NUMBER_LISTS):
        return [kept.index(one) for one in value if one in kept]
    return value


def cut_config(config: PreTrainedConfig, keep: int) -> None:
    """Cut the config of a model in place, nested ones too.

    Raises:
        InputError: the model has fewer layers, or its config does not say how many.
    """
    text = config.get_text_config()
    num_layers = getattr(text, "num_hidden_layers", None)
    if not isinstance(num_layers, int):
        raise InputError(f"keep_layers = {keep}: a {config.model_type} has no num_hidden_layers -> leave it out")
    kept = kept_layers(num_layers, keep)
    for name, value in list(vars(text).items()):
        changed = cut_value(name, value, num_layers, kept)
        if changed is not value:
            setattr(text, name, changed)
    text.num_hidden_layers = keep


def cut_layers(model: PreTrainedModel, keep: int) -> None:
    """Remove decoder layers in place, from the model and from its config.

    Raises:
        InputError: the model has fewer layers, or no list of them.
    """
    import torch

    decoder = model.get_submodule(decoder_name(model))
    num_layers = model.config.get_text_config().num_hidden_layers
    cut_config(model.config, keep)
    lists = {
        name: module
        for name, module in decoder.named_children()
        if isinstance(module, torch.nn.ModuleList) and len(module) == num_layers
    }
    if not lists:
        kind = model.config.model_type
        raise InputError(f"keep_layers = {keep}: a {kind} has no list of {num_layers} decoder layers -> leave it out")
    for name, layers in lists.items():
        kept = torch.nn.ModuleList([layers[index] for index in kept_layers(num_layers, keep)])
        setattr(decoder, name, kept)
        _renumber(kept)


def _renumber(layers: torch.nn.ModuleList) -> None:
    # Key-value caches and states are kept by these numbers.
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = index
