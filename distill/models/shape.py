"""A model's sizes, computed from its config.json alone: no weights are read, downloaded or allocated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.storage import is_uri
from distill.core.errors import InputError
from distill.models.activations import kept_bytes_per_token
from distill.models.attention import head_width, one_row_reason
from distill.models.cut import cut_config
from distill.models.folder import CONFIG, parse_settings
from distill.models.language_part import language_modules
from distill.models.remembered import remembered
from distill.models.resolve import resolve_model, resolved_folder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from distill.config.models import ModelConfig
    from distill.config.students import LoraTune

SCORE_LOGIT_BYTES = 1 << 29
"""Most that the logits of one pass take where log-probabilities are asked for, unless those of one row take more."""
SCORE_POSITIONS = 512
"""Positions that are compared with their logits at once, in fp32."""


def score_memory_bytes(vocab: int, longest: int, itemsize: int) -> int:
    """Most that scoring takes beside the model: the logits of a pass, and what is derived from some positions of it.

    Args:
        vocab: of the model, tokens.
        longest: answer, tokens.
        itemsize: bytes of a logit.
    """
    derived = SCORE_POSITIONS * vocab * (4 + 4 + 1)  # in fp32, their exponentials, and which are above the target's
    return max(SCORE_LOGIT_BYTES, longest * vocab * itemsize) + derived


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

    context_tokens: int = 0
    """Longest row that the model was made for; 0 where its config does not say."""
    tied_tables: tuple[str, ...] = ()
    """Names of the input embedding and the output layer where the two are one matrix."""
    kept_bytes_per_token: int = 0
    """Bytes that its layers keep per token for the backward pass, in bf16, without checkpointing; 0: not measured."""
    one_row_reason: str = ""
    """Why its rows are trained in one forward pass each; empty where they can share one."""

    @property
    def head_parameters(self) -> int:
        """Weights of the output layer."""
        return self.hidden * self.vocab

    def lora_parameters(self, tune: LoraTune) -> int:
        """Weights of a LoRA adapter: rank x (inputs + outputs) of every target layer (Hu et al., 2021)."""
        if tune.targets == "all-linear":
            return tune.rank * sum(self.linear_widths.values())
        return tune.rank * sum(self.linear_widths[name] for name in tune.targeted(tuple(self.linear_widths)))


def shape_of(settings: Mapping[str, Any], context_tokens: int | None = None) -> ModelShape:
    """The shape of a model from the content of its config.json.

    `context_tokens`: its context where the recipe sets another one.

    Raises:
        InputError: transformers cannot build such a model.
    """
    found = _shape(json.dumps(settings, sort_keys=True))
    return found if context_tokens is None else replace(found, context_tokens=context_tokens)


@lru_cache(maxsize=32)
def _shape(settings: str) -> ModelShape:
    found = remembered("shape", settings, lambda: asdict(measured_shape(settings)))
    return ModelShape(**{**found, "tied_tables": tuple(found["tied_tables"])})


def measured_shape(settings: str) -> ModelShape:
    """The shape of the model of a config.json, from its modules without memory. Imports torch and transformers.

    Raises:
        InputError: transformers cannot build such a model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    values = json.loads(settings)
    config = _config(values)
    try:
        with torch.device("meta"):  # modules without memory: exact for every architecture, takes a second
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(_not_built(values, error)) from error
    text = config.get_text_config()
    head_dim = head_width(text)
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
        context_tokens=getattr(text, "max_position_embeddings", None) or 0,
        tied_tables=_tied_tables(model, is_tied=bool(getattr(config, "tie_word_embeddings", False))),
        one_row_reason=one_row_reason(model),
        kept_bytes_per_token=kept_bytes_per_token(model),
    )


def _config(settings: Mapping[str, Any]) -> PreTrainedConfig:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    values = dict(settings)
    try:
        return AutoConfig.for_model(values.pop("model_type", ""), **values)
    except (ValueError, KeyError, StrictDataclassError, TypeError) as error:
        raise InputError(_not_built(settings, error)) from error


def _not_built(settings: Mapping[str, Any], error: Exception) -> str:
    kind = settings.get("model_type", "")
    what = f"cannot build a model from its config.json (model_type {kind!r}): {error}"
    if "auto_map" in settings:
        return f"{what}; the code that comes with it is not run -> take a model that transformers knows by itself"
    return what


def _tied_tables(model: Any, *, is_tied: bool) -> tuple[str, ...]:
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    is_same = tables[0].weight is tables[1].weight
    named = [name for name, module in model.named_modules() if module is tables[0] or module is tables[1]]
    return tuple(named) if is_tied or is_same else ()


def _linear_widths(model: Any) -> dict[str, int]:
    import torch

    widths: Counter[str] = Counter()
    for name, module in language_modules(model):
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            widths[name.rsplit(".", 1)[-1]] += module.in_features + module.out_features
    return dict(widths)


def read_settings(folder: Path) -> dict[str, Any]:
    """The content of a model folder's config.json."""
    return parse_settings((folder / CONFIG).read_text())


def planned_settings(
    name: str, config: ModelConfig, on_progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """The config.json of a model by reference, cut as the recipe says. Only that file is fetched from the hub.

    Args:
        name: name of the model in the recipe.
        config: its sources and changes.
        on_progress: called with a message before each long step, where a source has no file of settings of its own.

    Raises:
        InputError: none of the model's sources can be reached.
    """
    for source in config.sources:
        settings = _local_settings(source)
        if settings is not None:
            return cut_settings(settings, config.keep_layers)
        folder = resolved_folder(source, config)
        if folder is not None:
            return read_settings(folder)
    for source in config.sources:
        settings = _hub_settings(source, config.revision)
        if settings is not None:
            return cut_settings(settings, config.keep_layers)
    # A GGUF file or a URI has no config.json of its own: convert it (once) or fetch it, as the run would.
    return read_settings(Path(resolve_model(name, config, on_progress).path))


def cut_settings(settings: dict[str, Any], keep: int | None) -> dict[str, Any]:
    """The config.json of a model after `distill.models.cut.cut_layers`.

    Raises:
        InputError: transformers has no such model, or it has fewer layers.
    """
    if keep is None:
        return settings
    config = _config(settings)
    cut_config(config, keep)
    return dict(config.to_dict())


def _local_settings(source: str) -> dict[str, Any] | None:
    folder = Path(source).expanduser()
    return read_settings(folder) if (folder / CONFIG).is_file() else None


def _hub_settings(source: str, revision: str) -> dict[str, Any] | None:
    if is_uri(source) or source.endswith(".gguf") or source.startswith((".", "/", "~")):
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return parse_settings(Path(hf_hub_download(source, CONFIG, revision=revision, etag_timeout=5)).read_text())
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None
