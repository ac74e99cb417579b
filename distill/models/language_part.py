"""Which part of a built model reads and writes text: only that part is trained, adapted and cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def decoder_name(model: PreTrainedModel) -> str:
    """Dotted name of the module that holds the text decoder's layers; empty where that is the model itself."""
    decoder = model.get_decoder()
    return next((name for name, module in model.named_modules() if module is decoder), "")


def parts_beside(decoder: str, modules: Iterable[str], head: str) -> list[str]:
    """The outermost modules that neither hold the decoder nor are in it: vision and audio towers, their projectors.

    Args:
        decoder: name of the decoder.
        modules: names of all modules.
        head: name of the output layer, which belongs to the language model wherever it stands.
    """
    path = decoder.split(".") if decoder else []
    parents = {".".join(path[:depth]) for depth in range(len(path))}
    return [
        name
        for name in modules
        if name and name.rpartition(".")[0] in parents and name not in (*parents, decoder, head)
    ]


def other_parts(model: PreTrainedModel) -> list[str]:
    """Names of the parts of a model that have nothing to do with text; empty for a language model."""
    names = {id(module): name for name, module in model.named_modules()}
    head = model.get_output_embeddings()
    return parts_beside(decoder_name(model), names.values(), names.get(id(head), ""))


def inside(parts: Iterable[str]) -> str | None:
    """A pattern that is the whole name of every module in these parts; None where there are none."""
    found = "|".join(map(re.escape, parts))
    return rf"(?:{found})(?:\..*)?" if found else None


def language_modules(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Module]]:
    """Modules of a model by name, without those of other parts."""
    excluded = inside(other_parts(model))
    for name, module in model.named_modules():
        if excluded is None or not re.fullmatch(excluded, name):
            yield name, module
