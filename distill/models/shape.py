"""A model's sizes, computed from its config.json alone: no weights are read, downloaded or allocated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.storage import is_uri
from distill.core.errors import InputError
from distill.models.language_part import language_modules
from distill.models.resolve import kept_layers, resolve_model, resolved_folder

if TYPE_CHECKING:
    from distill.config.models import ModelConfig
    from distill.config.students import LoraTune


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model on which memory and computation depend."""

    num_parameters: int
    """Tied weights count once."""
    body_parameters: int
    """All weights except the input embedding and the output layer."""
    hidden: int
    layers: int
    intermediate: int
    """Width of the feed-forward layers."""
    query_width: int
    """Query heads times their dimension."""
    kv_width: int
    """Width of the keys, and of the values: key-value heads times their dimension."""
    vocab: int
    linear_widths: Mapping[str, int]
    """Last part of a linear layer's name -> inputs plus outputs, summed over all layers of that name; without the
    output layer, and without vision towers and other parts that are not adapted."""

    @property
    def head_parameters(self) -> int:
        """Weights of the output layer."""
        return self.hidden * self.vocab

    def lora_parameters(self, tune: LoraTune) -> int:
        """Weights of a LoRA adapter: rank x (inputs + outputs) of every target layer (Hu et al., 2021)."""
        if tune.targets == "all-linear":
            return tune.rank * sum(self.linear_widths.values())
        names = {tune.targets} if isinstance(tune.targets, str) else set(tune.targets)
        return tune.rank * sum(width for name, width in self.linear_widths.items() if name in names)


def shape_of(settings: Mapping[str, Any], *, trust_remote_code: bool = False) -> ModelShape:
    """The shape of a model from the content of its config.json.

    Raises:
        InputError: transformers cannot build such a model.
    """
    return _shape(json.dumps(settings, sort_keys=True), trust_remote_code)


@lru_cache(maxsize=32)
def _shape(settings: str, trust_remote_code: bool) -> ModelShape:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = json.loads(settings)
    kind = values.pop("model_type", "")
    try:
        config = AutoConfig.for_model(kind, **values)
        with torch.device("meta"):  # modules without memory: exact for every architecture, takes a second
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot build a model from its config.json (model_type {kind!r}): {error}") from error
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    tables = {
        id(one): one.numel() for one in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    }
    num_parameters = sum(weight.numel() for weight in model.parameters())
    return ModelShape(
        num_parameters=num_parameters,
        body_parameters=num_parameters - sum(tables.values()),
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        query_width=text.num_attention_heads * head_dim,
        kv_width=(getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_dim,
        vocab=text.vocab_size,
        linear_widths=_linear_widths(model),
    )


def _linear_widths(model: Any) -> dict[str, int]:
    import torch

    widths: Counter[str] = Counter()
    for name, module in language_modules(model):
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            widths[name.rsplit(".", 1)[-1]] += module.in_features + module.out_features
    return dict(widths)


def read_settings(folder: Path) -> dict[str, Any]:
    """The content of a model folder's config.json."""
    return dict(json.loads((folder / "config.json").read_text()))


def planned_settings(name: str, config: ModelConfig) -> dict[str, Any]:
    """The config.json of a model by reference, cut as the recipe says. Only that file is fetched from the hub.

    Raises:
        InputError: none of the model's sources can be reached.
    """
    for source in config.sources:
        folder = resolved_folder(source, config)
        if folder is not None:
            return read_settings(folder)
    for source in config.sources:
        settings = _local_settings(source) or _hub_settings(source, config.revision)
        if settings is not None:
            return _cut(settings, config.keep_layers)
    # A GGUF file or a URI has no config.json of its own: convert it (once) or fetch it, as the run would.
    return read_settings(Path(resolve_model(name, config).path))


def _cut(settings: dict[str, Any], keep: int | None) -> dict[str, Any]:
    """The config.json of the model after `distill.models.resolve.cut_layers`."""
    if keep is None:
        return settings
    kept = kept_layers(settings["num_hidden_layers"], keep)
    types = settings.get("layer_types")
    return {**settings, "num_hidden_layers": keep} | ({"layer_types": [types[i] for i in kept]} if types else {})


def _local_settings(source: str) -> dict[str, Any] | None:
    folder = Path(source).expanduser()
    return read_settings(folder) if (folder / "config.json").is_file() else None


def _hub_settings(source: str, revision: str) -> dict[str, Any] | None:
    if is_uri(source) or source.endswith(".gguf") or source.startswith((".", "/", "~")):
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return dict(
            json.loads(Path(hf_hub_download(source, "config.json", revision=revision, etag_timeout=5)).read_text())
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None
