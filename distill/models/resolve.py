"""Models by reference: a hub id, a local folder, a GGUF file, any fsspec URI, or packages that contain a GGUF file.

A reference is resolved once to a local Hugging Face folder with safetensors weights, tokenizer and chat template.
Converted and cut models are cached under a content hash, so the next run opens the folder at once.
"""

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cluster.storage import IN_PACKAGE, cache_dir, fetch, is_uri, link_into_cache, local_folder
from distill.config.models import ModelConfig, package_parts, text_settings
from distill.core.errors import InputError
from distill.core.full_disk import full_disk_said
from distill.core.run_dir import RunDir, published_model
from distill.core.schema import content_hash
from distill.models.chat_template import with_fixed_date
from distill.models.convert import convert_cut, convert_gguf, convert_pickled
from distill.models.engine_check import require_engine
from distill.models.folder import (
    CONFIG,
    MODEL_FILES,
    NOTICE_FILES,
    OTHER_FORMATS,
    VOCABULARIES,
    content_digest,
    count_parameters,
    has_other_formats,
    is_usable,
    link_folder,
    model_files,
    notice_files,
    replace_folder,
    validate_folder,
    weight_files,
)
from distill.models.packages import fetch_parts, package_file, parts_lock

CONVERSION_VERSION = 1
"""Raised when a conversion below leads to other results, so that those of the old one are not used."""

FOLDER_VERSION = 3
"""Raised when converted folders are written in another way but compute the same."""

GGUF_FOLDER_VERSION = 2
"""The same of folders that come from a GGUF file: packages in parts are downloaded again for each."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model as a local folder, and where it came from."""

    name: str
    path: str
    """Folder on the machine that resolved it, or the published address on another machine."""
    source: str
    """The one of the recipe's sources that was used."""
    identity: str
    """Content hash of source, revision and changes; part of the key of every result of the model. A source on this
    machine counts by its content, one elsewhere by its name."""
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
    for file in [*model_files(Path(model.path)), *notice_files(Path(model.path))]:
        if stored.get(file.name) != file.stat().st_size:  # equal: an interrupted run has copied it
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
        InputError: no source can be reached, what is there is no whole model, or it has fewer layers than are to be
            kept.
        FullDiskError: there is no room in the cache for what a source holds.
    """
    skipped: list[str] = []
    for source in config.sources:
        try:
            with full_disk_said(str(cache_dir())):  # another source would not fit either, and would be another model
                folder = _prepare(source, config, on_progress)
        except (FileNotFoundError, ConnectionError, OSError, ImportError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]  # a timeout may say nothing
            skipped.append(f"{source}: {first[:200]}")
            continue
        return _describe(name, config, source, folder, tuple(skipped))
    lines = "".join(f"\n    {line}" for line in skipped)
    raise InputError(
        f"models.{name}: none of its sources can be reached:{lines}\n  -> give a local folder or a reachable source"
    )


def resolved_folder(source: str, config: ModelConfig) -> Path | None:
    """The cached folder of a source that an earlier run converted or cut; None if there is none."""
    try:
        target = _cached(source, config)
    except OSError:  # a source on this machine that is gone
        return None
    return target if is_converted(target) else None


def is_converted(target: Path) -> bool:
    return target.is_dir() and is_usable(target)


def model_identity(source: str, config: ModelConfig) -> str:
    """Hash of what the model of a source is: of its content where it lies on this machine, else of its name.

    Raises:
        FileNotFoundError: a source on this machine is gone.
    """
    local = local_source(source)
    name, revision = (f"sha256:{content_digest(local)}", "") if local else (source, config.revision)
    return content_hash(CONVERSION_VERSION, name, revision, config.keep_layers, config.chat_template)


def local_source(source: str) -> Path | None:
    """The folder or GGUF file on this machine that a source names; None where it is something else.

    Raises:
        FileNotFoundError: it names one that does not exist.
    """
    if is_uri(source):
        return None
    local = Path(source).expanduser()
    if local.suffix != ".gguf" and not local.is_dir() and not source.startswith((".", "/", "~")):
        return None
    if not local.exists():
        raise FileNotFoundError("no such file or folder")
    return local


class AdapterBase(NamedTuple):
    """Where the base model of an adapter is, as another machine knows it."""

    name: str
    """Hub id or folder."""
    revision: str | None = None
    """Of the hub id; None for the newest."""


def adapter_base(model: ResolvedModel, config: ModelConfig) -> AdapterBase:
    """What an adapter trained on a model names as its base: the recipe's source, unless its weights were changed."""
    is_whole = config.keep_layers is None and not model.source.endswith(".gguf") and not is_uri(model.source)
    if not is_whole:
        return AdapterBase(os.path.abspath(model.path))
    local = Path(model.source).expanduser()
    if local.is_dir() or model.source.startswith((".", "/", "~")):
        return AdapterBase(str(local.absolute()))
    return AdapterBase(model.source, None if config.revision == "main" else config.revision)


def _describe(name: str, config: ModelConfig, source: str, folder: Path, skipped: tuple[str, ...]) -> ResolvedModel:
    settings = json.loads((folder / CONFIG).read_text())
    require_engine(name, settings)
    context = int(config.context_tokens or text_settings(settings).get("max_position_embeddings") or 0)
    return ResolvedModel(
        name=name,
        path=str(folder),
        source=source,
        identity=model_identity(source, config),
        num_parameters=count_parameters(folder),
        context_tokens=context,
        skipped=skipped,
    )


def _prepare(source: str, config: ModelConfig, on_progress: Callable[[str], None]) -> Path:
    """A folder with the model of one source, converted and cut as the recipe says; from the cache if it is there.

    One change at a time, each from the folder with the changes before it: cuts of one GGUF file share its conversion.
    """
    if (template := config.chat_template) is not None:
        plain = config.model_copy(update={"chat_template": None})
        return _from_cache(
            source, config, lambda target: link_folder(_prepare(source, plain, on_progress), target, template)
        )
    if (keep := config.keep_layers) is not None:
        whole = config.model_copy(update={"keep_layers": None})

        def cut(target: Path) -> None:
            folder = _prepare(source, whole, on_progress)
            on_progress(f"cutting to {keep} layers (once)")
            convert_cut(folder, target, keep)

        return _from_cache(source, config, cut)
    return _unchanged(source, config, on_progress)


def _unchanged(source: str, config: ModelConfig, on_progress: Callable[[str], None]) -> Path:
    """The model as its source has it, in a folder that all libraries read in the same way."""
    if is_converted(_cached(source, config)):
        return _cached(source, config)
    if (parts := package_parts(source)) is not None:
        with parts_lock(parts):  # until the folder takes the file's place: another process would read what is deleted
            if is_converted(_cached(source, config)):
                return _cached(source, config)
            whole = fetch_parts(parts, on_progress)
            folder = _converted(whole, source, config, on_progress)
            whole.unlink()
            return folder
    original = _fetch(source, config, on_progress)
    if original.suffix == ".gguf":
        return _converted(original, source, config, on_progress)
    validate_folder(original)
    if not weight_files(original):
        on_progress(f"converting the pickled weights of {source} (once)")
        return _from_cache(source, config, lambda target: convert_pickled(original, target))
    if has_other_formats(original):
        return _from_cache(source, config, lambda target: link_folder(original, target, None))
    return original


def _converted(file: Path, source: str, config: ModelConfig, on_progress: Callable[[str], None]) -> Path:
    """The folder that a GGUF file is converted to."""
    on_progress(f"converting {file.name} (once)")
    return _from_cache(source, config, lambda target: convert_gguf(file, target))


def _cached(source: str, config: ModelConfig) -> Path:
    is_gguf = source.endswith(".gguf") or source.startswith(IN_PACKAGE)
    return cache_dir() / f"{model_identity(source, config)}-{GGUF_FOLDER_VERSION if is_gguf else FOLDER_VERSION}"


def _from_cache(source: str, config: ModelConfig, write: Callable[[Path], None]) -> Path:
    """The cached folder of a model; written first if it is not there."""
    target = _cached(source, config)
    if is_converted(target):
        return target
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(temporary)
        replace_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _fetch(source: str, config: ModelConfig, on_progress: Callable[[str], None]) -> Path:
    """The unchanged source as a local folder or a local GGUF file.

    Raises:
        OSError: it cannot be reached from this machine.
    """
    if source.startswith(IN_PACKAGE):
        return package_file(source.removeprefix(IN_PACKAGE))
    if is_uri(source):
        on_progress(f"fetching {source}")
        return fetch(source)
    return local_source(source) or _fetch_hub(source, config, on_progress)


def _fetch_hub(repo: str, config: ModelConfig, on_progress: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    on_progress(f"looking up {repo} on the model hub")
    try:
        folder = snapshot_download(
            repo,
            revision=config.revision,
            allow_patterns=[*MODEL_FILES, *VOCABULARIES, *NOTICE_FILES],
            ignore_patterns=list(OTHER_FORMATS),
            etag_timeout=5,
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(f"not available from the model hub ({type(error).__name__})") from error
    if not weight_files(Path(folder)):
        raise InputError(
            f"{repo} has no safetensors weights, and pickled ones are not fetched from the hub -> download it yourself "
            "and name the folder: its pytorch_model*.bin are then read as weights only, and converted once"
        )
    return Path(folder)


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a model folder or address; its chat template writes a fixed date, if any.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    return dated(unchanged_tokenizer(path))


def dated(tokenizer: Any) -> Any:
    """The tokenizer, whose chat template writes a fixed date from now on."""
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
        return AutoTokenizer.from_pretrained(local_folder(path), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot load a tokenizer ({error}) -> give a model folder with tokenizer files that transformers "
            "knows; code that comes with a model is not run"
        ) from error
