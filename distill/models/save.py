"""Saves a model as a folder that other programs open as well: transformers 4 and 5, vLLM, peft.

Transformers 5 writes what transformers 4 does not read: rotary settings under another name (4 then takes 10000 for
every theta, without a word), the precision as `dtype`, and a tokenizer class that 4 does not have. Both spellings are
written.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.errors import InputError
from distill.core.full_disk import full_disk_said
from distill.models.folder import CONFIG, TOKENIZER_CONFIG

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

ROPE = "rope_parameters"
FULL, SLIDING = "full_attention", "sliding_attention"
NEW_TOKENIZER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""Class of transformers 5 -> what both versions call it."""
DECIDING = ("do_sample", "num_beams", "return_dict_in_generate", "use_cache")
"""Settings of generation that others are valid with, or not."""
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


def save_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a model with its tokenizer; its generation settings are mended first."""
    if model.generation_config is not None:
        model.generation_config = mended_generation_config(model.generation_config)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    add_old_spellings(folder)


def save_beside_adapter(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, base: str, revision: str | None
) -> None:
    """Complete an adapter's folder: tokenizer, chat template, generation settings, and where its base model is.

    Args:
        model: the adapted model.
        tokenizer: its tokenizer.
        folder: what peft saved.
        base: hub id or folder of the base model, as another machine knows it.
        revision: of the hub id; None for the newest.
    """
    if model.generation_config is not None:
        mended_generation_config(model.generation_config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    add_old_spellings(folder)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text()) | {"base_model_name_or_path": base, "revision": revision}
    path.write_text(json.dumps(settings, indent=2))


def try_save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save everything but the weights into a temporary folder and read it again.

    Raises:
        InputError: it cannot be saved or read; the training would have been for nothing.
        FullDiskError: the disk for temporary files is full.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoTokenizer

    try:
        with full_disk_said(tempfile.gettempdir()), tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model.config.save_pretrained(str(folder))
            if model.generation_config is not None:
                mended_generation_config(model.generation_config).save_pretrained(str(folder))
            tokenizer.save_pretrained(str(folder))
            add_old_spellings(folder)
            AutoConfig.from_pretrained(str(folder))
            AutoTokenizer.from_pretrained(str(folder))
    except (AttributeError, KeyError, OSError, StrictDataclassError, TypeError, ValueError) as error:
        raise InputError(
            f"{model.config.name_or_path}: what is trained from it could not be saved ({type(error).__name__}: {error})"
            " -> correct its config.json, generation_config.json or tokenizer_config.json"
        ) from error


# Generation settings


def mended_generation_config(config: GenerationConfig) -> GenerationConfig:
    """The same settings as far as they are valid together.

    Where there are sampling settings and nothing says whether to sample, sampling is what was meant. A setting that has
    no effect beside the others, or no valid value, is left out.
    """
    from transformers import GenerationConfig

    values = {name: value for name, value in config.to_diff_dict().items() if name != "transformers_version"}
    if values.get("do_sample") is None and any(values.get(name) is not None for name in SAMPLING):
        values["do_sample"] = True
    kept: dict[str, Any] = {}
    for name in sorted(values, key=lambda name: (name not in DECIDING, name)):
        try:
            GenerationConfig(**kept, **{name: values[name]}).validate(strict=True)
        except (AttributeError, TypeError, ValueError):
            continue
        kept[name] = values[name]
    return GenerationConfig(**kept)


# Spellings of transformers 4


def add_old_spellings(folder: Path) -> None:
    """Add to config.json and tokenizer_config.json what transformers 4 reads; 5 reads the same as before."""
    from transformers import AutoConfig

    path = folder / CONFIG
    if path.is_file():
        written = path.read_text()
        known = AutoConfig.from_pretrained(str(folder)).to_dict()
        path.write_text(json.dumps(with_old_spellings(json.loads(written)), indent=2))
        if not agrees(AutoConfig.from_pretrained(str(folder)).to_dict(), known):
            path.write_text(written)  # an architecture of transformers 5 that reads the old names in another way
    path = folder / TOKENIZER_CONFIG
    if path.is_file():
        settings = with_old_tokenizer(json.loads(path.read_text()))
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False))


def with_old_spellings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json, at every level with its rotary settings and its precision as transformers 4 names them too."""
    found = {
        name: with_old_spellings(value) if isinstance(value, Mapping) and name != ROPE else value
        for name, value in settings.items()
    }
    if isinstance(settings.get(ROPE), Mapping):
        found |= old_rotary(settings[ROPE])
    if settings.get("dtype"):
        found["torch_dtype"] = settings["dtype"]
    return found


def old_rotary(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings as transformers 4 names them: `rope_theta`, `rope_scaling` and what stands beside them."""
    by_layer = {kind: parameters[kind] for kind in (FULL, SLIDING) if isinstance(parameters.get(kind), Mapping)}
    main = by_layer.get(FULL) or by_layer.get(SLIDING) or parameters
    found = {name: main[name] for name in ("rope_theta", "partial_rotary_factor") if main.get(name) is not None}
    if len(by_layer) == 2 and by_layer[SLIDING].get("rope_theta") is not None:
        found["rope_local_base_freq"] = by_layer[SLIDING]["rope_theta"]
    kind = main.get("rope_type") or main.get("type") or "default"
    if kind == "default":
        return found
    scaling = {name: value for name, value in main.items() if name not in ("rope_theta", "partial_rotary_factor")}
    if kind == "longrope":  # 4 takes three fields, and the length before scaling from beside them
        found["original_max_position_embeddings"] = scaling.get("original_max_position_embeddings")
        scaling = {"type": kind} | {name: scaling[name] for name in ("short_factor", "long_factor") if name in scaling}
    return found | {"rope_scaling": scaling}


def agrees(found: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a config that was read has all that it had before; what was only added does not count."""
    return all(_is_same(found.get(name), value) for name, value in known.items() if name != "type")


def _is_same(found: Any, known: Any) -> bool:
    if isinstance(known, Mapping) and isinstance(found, Mapping):
        return agrees(found, known)
    return bool(found == known)


def with_old_tokenizer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json whose class and further special tokens both versions know."""
    found = dict(settings)
    name = str(found.get("tokenizer_class", ""))
    if name in NEW_TOKENIZER_CLASSES:
        found["tokenizer_class"] = NEW_TOKENIZER_CLASSES[name]
    if isinstance(found.get("extra_special_tokens"), list):
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    return found
