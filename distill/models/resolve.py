"""Models by reference: a hub id, a local folder, a GGUF file, any fsspec URI, or a package that contains a GGUF file.

A reference is resolved once to a local Hugging Face folder with safetensors weights, tokenizer and chat template.
Converted and cut models are cached under a content hash, so the next run opens the folder at once.
"""

import dataclasses
import importlib.util
import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.storage import cache_dir, fetch, is_uri, link_into_cache, local_folder
from distill.config.models import ModelConfig
from distill.core.errors import InputError
from distill.core.run_dir import RunDir, published_model
from distill.core.schema import content_hash
from distill.models.chat_template import with_fixed_date

CONVERSION_VERSION = 1
"""Raised when a conversion below changes, so that folders cached by the old one are not used."""

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "tokenizer*")
"""Files fetched from the hub: no pickled weights, and code only if the recipe sets `trust_remote_code`."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model as a local folder, and where it came from."""

    name: str
    path: str
    """Folder on the machine that resolved it, or the published address on another machine."""
    source: str
    """The one of the recipe's sources that was used."""
    identity: str
    """Content hash of source, revision and changes; part of the key of every result of the model."""
    num_parameters: int
    context_tokens: int
    skipped: tuple[str, ...] = ()
    """Sources tried before it, with the reason why each was not used."""
    published: str = ""
    """Address of a copy in the run's storage; empty if the run directory is a folder, whose path all machines share."""

    @property
    def folder(self) -> Path:
        """The model's folder on this machine; fetched if necessary."""
        return Path(local_folder(self.path))

    @property
    def address(self) -> str:
        """Address that any machine can open with `local_folder`."""
        return self.published or os.path.abspath(self.path)


def publish(model: ResolvedModel, run_dir: RunDir) -> ResolvedModel:
    """Copy a model into the storage of a run, for all machines; nothing to do if the run directory is a folder."""
    if run_dir.is_local:
        return model
    parts = published_model(f"{model.name}-{model.identity}")
    stored = {str(path).rsplit("/", 1)[1]: run_dir.fs.size(path) for path in run_dir.fs.find(run_dir.path(*parts))}
    for file in sorted(Path(model.path).iterdir()):
        is_needed = any(file.match(pattern) for pattern in (*HUB_FILES, "*.py"))
        if is_needed and stored.get(file.name) != file.stat().st_size:  # equal: an interrupted run has copied it
            run_dir.fs.put_file(str(file), run_dir.path(*parts, file.name))
    address = run_dir.address_of(*parts)
    link_into_cache(address, Path(model.path).absolute())
    return dataclasses.replace(model, published=address)


def resolve_model(
    name: str, config: ModelConfig, on_progress: Callable[[str], None] = lambda text: None
) -> ResolvedModel:
    """The first source that can be reached, as a local folder.

    Args:
        name: name of the model in the recipe.
        config: its sources and changes.
        on_progress: called with a message before each long step.

    Raises:
        InputError: no source can be reached, the model has no safetensors, or fewer layers than are to be kept.
    """
    skipped: list[str] = []
    for source in config.sources:
        try:
            folder = _prepare(source, config, on_progress)
        except (FileNotFoundError, ConnectionError, OSError, ImportError) as error:
            skipped.append(f"{source}: {str(error).splitlines()[0][:200]}")
            continue
        return _describe(name, config, source, folder, tuple(skipped))
    lines = "".join(f"\n    {line}" for line in skipped)
    raise InputError(
        f"models.{name}: none of its sources can be reached:{lines}\n  -> give a local folder or a reachable source"
    )


def resolved_folder(source: str, config: ModelConfig) -> Path | None:
    """The cached folder of a source that an earlier run converted or cut; None if there is none."""
    target = cache_dir() / _identity(source, config)
    return target if (target / "config.json").exists() else None


def _describe(name: str, config: ModelConfig, source: str, folder: Path, skipped: tuple[str, ...]) -> ResolvedModel:
    settings = json.loads((folder / "config.json").read_text())
    context = int(config.context_tokens or settings.get("max_position_embeddings", 0))
    return ResolvedModel(
        name=name,
        path=str(folder),
        source=source,
        identity=_identity(source, config),
        num_parameters=count_parameters(folder),
        context_tokens=context,
        skipped=skipped,
    )


def _identity(source: str, config: ModelConfig) -> str:
    return content_hash(CONVERSION_VERSION, source, config.revision, config.keep_layers, config.chat_template)


def _prepare(source: str, config: ModelConfig, on_progress: Callable[[str], None]) -> Path:
    """A folder with the model of one source, converted and cut as the recipe says; from the cache if it is there."""
    target = cache_dir() / _identity(source, config)
    if (target / "config.json").exists():
        return target
    original = _fetch(source, config, on_progress)
    is_changed = config.keep_layers is not None or config.chat_template is not None
    if original.suffix != ".gguf" and not is_changed:
        return original
    if original.suffix == ".gguf" and is_changed:
        # Reading GGUF takes most of the time, so cuts of one file share its conversion.
        original = _prepare(source, config.model_copy(update={"keep_layers": None, "chat_template": None}), on_progress)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        _convert(original, temporary, config, on_progress)
        if not target.exists():
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _fetch(source: str, config: ModelConfig, on_progress: Callable[[str], None]) -> Path:
    """The unchanged source as a local folder or a local GGUF file.

    Raises:
        OSError: it cannot be reached from this machine.
    """
    if source.startswith("package://"):
        return _package_file(source.removeprefix("package://"))
    if is_uri(source):
        on_progress(f"fetching {source}")
        return fetch(source)
    local = Path(source).expanduser()
    if local.suffix == ".gguf" or local.is_dir() or source.startswith((".", "/", "~")):
        if not local.exists():
            raise FileNotFoundError("no such file or folder")
        return local
    return _fetch_hub(source, config, on_progress)


def _package_file(package: str) -> Path:
    # The package is not imported, since its dependencies may not be installed. Its folder is enough.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {package} is not installed")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if len(files) != 1:
        raise FileNotFoundError(f"the package {package} contains {len(files)} GGUF files instead of 1")
    return files[0]


def _fetch_hub(repo: str, config: ModelConfig, on_progress: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*HUB_FILES, *(["*.py"] if config.trust_remote_code else [])]
    on_progress(f"looking up {repo} on the model hub")
    try:
        folder = snapshot_download(repo, revision=config.revision, allow_patterns=patterns, etag_timeout=5)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(f"not available from the model hub ({type(error).__name__})") from error
    if not list(Path(folder).glob("*.safetensors")):
        raise InputError(f"{repo} has no safetensors weights, and no other format is loaded -> convert it first")
    return Path(folder)


def _convert(original: Path, target: Path, config: ModelConfig, on_progress: Callable[[str], None]) -> None:
    """Write the model to `target` as a Hugging Face folder: converts GGUF, cuts layers, sets the chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, kwargs = original, dict[str, Any](trust_remote_code=config.trust_remote_code)
    tokenizer_kwargs = dict(kwargs)
    if original.suffix == ".gguf":
        on_progress(f"converting {original.name} (once)")
        folder = original.parent
        tokenizer_kwargs["gguf_file"] = kwargs["gguf_file"] = original.name
        # Without it the weights stay quantised and cannot be saved.
        kwargs["quantization_config"] = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **kwargs)
    tokenizer = AutoTokenizer.from_pretrained(folder, **tokenizer_kwargs)
    if config.keep_layers is not None:
        on_progress(f"cutting to {config.keep_layers} layers (once)")
        cut_layers(model, config.keep_layers)
    if config.chat_template is not None:
        tokenizer.chat_template = config.chat_template
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


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


def cut_layers(model: Any, keep: int) -> None:
    """Remove decoder layers in place."""
    import torch

    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([layers[index] for index in kept_layers(len(layers), keep)])
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    model.config.num_hidden_layers = keep
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in kept_layers(len(layers), keep)]


def count_parameters(folder: Path) -> int:
    """Number of weights in a folder's safetensors, from their headers; tied weights count once."""
    from safetensors import safe_open

    total = 0
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="np") as weights:
            for name in weights.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                size = 1
                for length in weights.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a model folder or address; its chat template writes a fixed date, if any.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    tokenizer = unchanged_tokenizer(path)
    if isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = with_fixed_date(tokenizer.chat_template)
    return tokenizer


def unchanged_tokenizer(path: str) -> Any:
    """The tokenizer of a model folder or address, with its chat template as it is there.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(local_folder(path))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot load a tokenizer ({error}) -> give a model folder with tokenizer files"
        ) from error
