"""Writes a model in another form, once: from a GGUF file, from pickled weights, with fewer layers."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from distill.core.errors import InputError
from distill.models.cut import cut_layers
from distill.models.folder import copy_notices
from distill.models.save import save_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PROBE_ROWS = 4096
COPY_LIKENESS = 0.98
"""Cosine of a token's rows in two quantisations of one matrix, at least; rows that were trained apart have less."""
PROBE_TOKENS = 24
PROBE_TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest: what was written and opened again computes the same."""


def convert_gguf(file: Path, target: Path) -> None:
    """Write the model in a GGUF file as a Hugging Face folder, its weights in bf16.

    Nothing that lies beside the file is taken along: a folder of GGUF files holds several models.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Without it the weights stay quantised and cannot be saved.
    how = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.bfloat16, **how)
    tie_copies(model)
    save_folder(model, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name), target)


def tie_copies(model: PreTrainedModel) -> None:
    """Tie the input embedding to the output layer where both are one matrix that was quantised twice.

    GGUF files of small models carry it in two precisions, the output layer's being the better one. Untied, a fifth of
    the weights would be there twice, and would drift apart in training.
    """
    import torch

    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if table is head or table.shape != head.shape:
        return
    likeness = torch.nn.functional.cosine_similarity(
        table.detach()[:PROBE_ROWS].float(), head.detach()[:PROBE_ROWS].float()
    )
    if float(likeness.median()) < COPY_LIKENESS:
        return
    model.config.tie_word_embeddings = True
    table.data.copy_(head.data)
    model.tie_weights()


def convert_pickled(folder: Path, target: Path) -> None:
    """Write a model whose weights are in pytorch_model*.bin with safetensors, in its own precision.

    Pickled files are read as weights only: code in them does not run.

    Raises:
        InputError: they cannot be read.
    """
    model = _loaded(folder, "its pytorch_model*.bin cannot be read as weights", "convert it to safetensors yourself")
    save_folder(model, _tokenizer(folder), target)
    copy_notices(folder, target)


def convert_cut(folder: Path, target: Path, keep: int) -> None:
    """Write a model with `keep` of its decoder layers, open it, and compare the two.

    Raises:
        InputError: the model has fewer layers, or what was opened is not what was cut.
    """
    from huggingface_hub.errors import StrictDataclassError

    model = _loaded(folder, "it cannot be cut", "leave keep_layers out")
    cut_layers(model, keep)
    expected, kind = probe_logits(model), model.config.model_type
    try:
        save_folder(model, _tokenizer(folder), target)
    except (StrictDataclassError, ValueError) as error:
        raise InputError(
            f"{folder}: cut to {keep} layers, this {kind} cannot be written ({error}) -> leave keep_layers out"
        ) from error
    copy_notices(folder, target)
    del model
    found = probe_logits(_loaded(target, f"a {kind} of {keep} layers cannot be opened again", "leave keep_layers out"))
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference < PROBE_TOLERANCE:
        raise InputError(
            f"{folder}: cut to {keep} layers and opened again, this {kind} gives other logits (by {difference:.2g} of "
            "the largest): its config says something per layer that is not cut -> leave keep_layers out"
        )


def probe_logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits of a few tokens, float32."""
    import torch

    ids = torch.arange(PROBE_TOKENS)[None] % model.get_input_embeddings().weight.shape[0]
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits.float()
    return logits


def _loaded(folder: Path, what: str, remedy: str) -> PreTrainedModel:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM

    faults = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False)
    except (*faults, StrictDataclassError, UnpicklingError) as error:
        raise InputError(f"{folder}: {what} ({str(error).splitlines()[0]}) -> {remedy}") from error


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
