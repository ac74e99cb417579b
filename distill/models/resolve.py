"""Models by reference: a hub id, a local folder, a GGUF file, any fsspec URI, or a package that carries a GGUF file.

A reference is resolved once to a local Hugging Face folder with safetensors weights, tokenizer and chat template.
Downloads, conversions and cuts are cached under their content hash, so a second run opens the folder at once.
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

from cluster.storage import cache_dir, fetched, is_address, keep_as_fetched, local_folder
from distill.config.models import ModelConfig
from distill.core.errors import InputError
from distill.core.run_dir import RunDir
from distill.core.schema import content_hash

CONVERSION_VERSION = 1
"""Raised when a conversion below changes, so that cached folders of the old kind are not used."""

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "tokenizer*")
"""What is fetched from the hub: never pickled weights, never code unless the recipe trusts it."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model as a local folder, and where it came from."""

    name: str
    path: str
    """On the machine that resolved it; on another one, where the run's storage has it."""
    source: str
    """The one of the recipe's sources that was used."""
    identity: str
    """Content hash of source, revision and changes: part of the key of everything made with the model."""
    num_parameters: int
    context_tokens: int
    skipped: tuple[str, ...] = ()
    """Sources tried before, and why they were not used."""
    published: str = ""
    """Address of a copy in the run's storage; empty where the run directory is a folder: machines share the path."""

    @property
    def folder(self) -> Path:
        """The model on this machine, fetched if need be."""
        return Path(local_folder(self.path))

    @property
    def place(self) -> str:
        """What any machine opens with `local_folder`."""
        return self.published or os.path.abspath(self.path)


def publish(model: ResolvedModel, run_dir: RunDir) -> ResolvedModel:
    """Put a model into the storage of a run, where every machine finds it; a folder is left as it is."""
    if run_dir.is_local:
        return model
    parts = ("models", f"{model.name}-{model.identity}")
    there = {str(path).rsplit("/", 1)[1]: run_dir.fs.size(path) for path in run_dir.fs.find(run_dir.path(*parts))}
    for file in sorted(Path(model.path).iterdir()):
        is_part = any(file.match(pattern) for pattern in (*HUB_FILES, "*.py"))
        if is_part and there.get(file.name) != file.stat().st_size:  # else an interrupted run has put it there
            run_dir.fs.put_file(str(file), run_dir.path(*parts, file.name))
    address = run_dir.place(*parts)
    keep_as_fetched(address, Path(model.path).absolute())
    return dataclasses.replace(model, published=address)


def resolve_model(name: str, config: ModelConfig, say: Callable[[str], None] = lambda text: None) -> ResolvedModel:
    """The first source that can be reached, as a local folder. `say` hears of long steps.

    Raises:
        InputError: no source can be reached, the model has no safetensors, or it is shorter than the recipe says.
    """
    skipped: list[str] = []
    for source in config.sources:
        try:
            folder = _prepare(source, config, say)
        except (FileNotFoundError, ConnectionError, OSError, ImportError) as error:
            skipped.append(f"{source}: {str(error).splitlines()[0][:200]}")
            continue
        return _describe(name, config, source, folder, tuple(skipped))
    lines = "".join(f"\n    {line}" for line in skipped)
    raise InputError(f"models.{name}: none of its sources can be had:{lines}\n  -> give a folder or a reachable source")


def resolved_folder(source: str, config: ModelConfig) -> Path | None:
    """Where an earlier run put what it made of a source; None where there is nothing yet."""
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


def _prepare(source: str, config: ModelConfig, say: Callable[[str], None]) -> Path:
    """A folder with the model of one source, changed as the recipe says; from the cache where it is there."""
    target = cache_dir() / _identity(source, config)
    if (target / "config.json").exists():
        return target
    original = _fetch(source, config, say)
    is_changed = config.keep_layers is not None or config.chat_template is not None
    if original.suffix != ".gguf" and not is_changed:
        return original
    if original.suffix == ".gguf" and is_changed:
        # Reading GGUF takes most of the time: cuts of one file share its conversion.
        original = _prepare(source, config.model_copy(update={"keep_layers": None, "chat_template": None}), say)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        _convert(original, temporary, config, say)
        if not target.exists():
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _fetch(source: str, config: ModelConfig, say: Callable[[str], None]) -> Path:
    """The source as it is: a local folder or a local GGUF file.

    Raises:
        OSError: it cannot be had from here.
    """
    if source.startswith("package://"):
        return _package_file(source.removeprefix("package://"))
    if is_address(source):
        say(f"fetching {source}")
        return fetched(source)
    local = Path(source).expanduser()
    if local.suffix == ".gguf" or local.is_dir() or source.startswith((".", "/", "~")):
        if not local.exists():
            raise FileNotFoundError("no such file or folder")
        return local
    return _fetch_hub(source, config, say)


def _package_file(package: str) -> Path:
    # The package is not imported: it may need things that are not installed. Its folder is enough.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {package} is not installed")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if len(files) != 1:
        raise FileNotFoundError(f"the package {package} carries {len(files)} GGUF files, not 1")
    return files[0]


def _fetch_hub(repo: str, config: ModelConfig, say: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*HUB_FILES, *(["*.py"] if config.trust_remote_code else [])]
    say(f"looking for {repo} on the model hub")
    try:
        folder = snapshot_download(repo, revision=config.revision, allow_patterns=patterns, etag_timeout=5)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(f"the model hub does not give it ({type(error).__name__})") from error
    if not list(Path(folder).glob("*.safetensors")):
        raise InputError(f"{repo} has no safetensors weights, the only kind that is loaded -> convert it first")
    return Path(folder)


def _convert(original: Path, target: Path, config: ModelConfig, say: Callable[[str], None]) -> None:
    """Write the model to `target` as a Hugging Face folder: GGUF read, layers cut, chat template set."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, kwargs = original, dict[str, Any](trust_remote_code=config.trust_remote_code)
    tokenizer_kwargs = dict(kwargs)
    if original.suffix == ".gguf":
        say(f"converting {original.name} (once)")
        folder = original.parent
        tokenizer_kwargs["gguf_file"] = kwargs["gguf_file"] = original.name
        # Without this the weights stay quantised and cannot be saved.
        kwargs["quantization_config"] = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **kwargs)
    tokenizer = AutoTokenizer.from_pretrained(folder, **tokenizer_kwargs)
    if config.keep_layers is not None:
        say(f"cutting to {config.keep_layers} layers (once)")
        cut_layers(model, config.keep_layers)
    if config.chat_template is not None:
        tokenizer.chat_template = config.chat_template
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def kept_layers(num_layers: int, keep: int) -> list[int]:
    """Which of `num_layers` decoder layers stay when `keep` are kept: evenly spaced, first and last among them.

    Raises:
        InputError: more are to be kept than there are.
    """
    if keep > num_layers:
        raise InputError(f"keep_layers = {keep}, but the model has {num_layers} -> keep at most {num_layers}")
    if keep == 1:
        return [0]
    return [round(index * (num_layers - 1) / (keep - 1)) for index in range(keep)]


def cut_layers(model: Any, keep: int) -> None:
    """Drop decoder layers in place."""
    import torch

    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([layers[index] for index in kept_layers(len(layers), keep)])
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    model.config.num_hidden_layers = keep
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in kept_layers(len(layers), keep)]


def count_parameters(folder: Path) -> int:
    """Weights in a folder's safetensors, read from their headers; tied weights count once."""
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
    """The tokenizer of a model folder, or of one in storage.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(local_folder(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no usable tokenizer ({error})") from error
