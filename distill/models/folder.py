"""A model folder in the Hugging Face format: which of its files count, their names, sizes and content.

Some repositories carry their model twice: Mistral's `consolidated*.safetensors`, `tekken.json` and `params.json`,
Meta's `original/`. These copies are neither fetched nor counted, and no engine gets to see them: vLLM takes a folder
with them for Mistral's own format, whose prompts are other ones than those that students are trained with.
"""

import hashlib
import json
import math
import shutil
import struct
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cluster.storage import is_uri, open_storage
from distill.core.errors import InputError
from distill.core.saved_files import file_digest

MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "tokenizer*")
"""Files that belong to a model: no pickled weights, and no code."""

VOCABULARIES = ("vocab.txt", "merges.txt")
"""Files of a tokenizer that belong to a model where it has no `TOKENIZER`, which holds what is in them."""

OTHER_FORMATS = ("*/*", "consolidated*", "tekken.json", "params.json", "adapter_*")
"""Of these, copies of the model in other formats, everything in folders below, and adapters that lie beside it."""

CARD_FILE = "README.md"
NOTICE_FILES = (CARD_FILE, *(f"{name}*" for name in ("LICENSE", "LICENCE", "License", "Licence", "license", "NOTICE",
                                                     "Notice", "USE_POLICY")))  # fmt: skip
"""What comes with a model and says under which licence: no part of it, so that no digest counts it."""

PICKLED = ("pytorch_model*.bin",)
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit: a longer header is none."""
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"


def parse_settings(text: str) -> dict[str, Any]:
    """The content of a config.json. Transformers 5 writes infinity, which JSON does not have, as
    `{"__float__": "Infinity"}`."""
    found: dict[str, Any] = json.loads(text, object_hook=_with_floats)
    return found


def _with_floats(value: dict[str, Any]) -> Any:
    return float(value["__float__"]) if value.keys() == {"__float__"} else value


def is_model_file(name: str) -> bool:
    """Whether a file of a repository, by its path there, is one that the model consists of."""
    return _matches(name, MODEL_FILES) and not _matches(name, OTHER_FORMATS)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def model_files(folder: Path) -> list[Path]:
    """The files that the model consists of, in order."""
    also = () if (folder / TOKENIZER).is_file() else VOCABULARIES
    return sorted(
        file for file in folder.iterdir() if file.is_file() and (is_model_file(file.name) or file.name in also)
    )


def notice_files(folder: Path) -> list[Path]:
    """The model's card and the files with its licence, in order."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and _matches(file.name, NOTICE_FILES) and not is_model_file(file.name)
    )


def copy_notices(original: Path, target: Path) -> None:
    """Copy a model's card and the files with its licence into another folder."""
    for file in notice_files(original):
        shutil.copyfile(file, target / file.name)


def has_other_formats(folder: Path) -> bool:
    """Whether engines could take the folder for something else than it is."""
    return any(file.is_file() and _matches(file.name, OTHER_FORMATS) for file in folder.iterdir())


def weight_files(folder: Path) -> list[Path]:
    """Its safetensors: those of the index, where there is one."""
    index = folder / INDEX
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
        return sorted(folder / name for name in names)
    return [file for file in model_files(folder) if file.suffix == ".safetensors"]


def pickled_files(folder: Path) -> list[Path]:
    """Its weights in torch's own format."""
    return sorted(file for file in folder.iterdir() if _matches(file.name, PICKLED))


def validate_folder(folder: Path) -> None:
    """That a folder holds a whole model in the Hugging Face format.

    Raises:
        InputError: it has no config.json, no weights, not all of those that its index names or not whole ones, or no
            tokenizer but Mistral's own.
    """
    names = {file.name for file in folder.iterdir()}
    if CONFIG not in names:
        is_adapter = "adapter_config.json" in names
        remedy = "merge it into its base model first" if is_adapter else "convert it to the Hugging Face format first"
        kind = "a LoRA adapter" if is_adapter else "no model in the Hugging Face format"
        raise InputError(f"{folder}: it has no {CONFIG}, so it is {kind} -> {remedy}")
    weights = weight_files(folder)
    if missing := [file.name for file in weights if not file.is_file()]:
        what = f"{INDEX} names {len(weights)} files of weights and {len(missing)} are missing ({missing[0]})"
        raise InputError(f"{folder}: {what} -> copy or download them again")
    if cut := cut_weights(str(folder)):
        raise InputError(f"{folder}: {'; '.join(cut)} -> copy or download it again")
    if not weights and not pickled_files(folder):
        raise InputError(f"{folder}: it has no *.safetensors and no pytorch_model*.bin -> name a folder with weights")
    vocabularies = ("vocab.json", "vocab.txt", "spiece.model")
    has_tokenizer = any(name.startswith("tokenizer") or name in vocabularies for name in names)
    if "tekken.json" in names and not has_tokenizer:
        raise InputError(
            f"{folder}: its only tokenizer is tekken.json, which vLLM and training would read in two ways -> add the "
            "tokenizer.json and tokenizer_config.json of the same model in the Hugging Face format"
        )


# Names and sizes


def tensor_shapes(address: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in the safetensors of a folder, from their headers.

    Args:
        address: folder or URI; the `#` suffix of a URI, which distinguishes versions, is left out.

    Raises:
        OSError: it cannot be read.
        InputError: a file is cut.
    """
    fs, root = _open(address)
    found: dict[str, tuple[int, ...]] = {}
    for path in _safetensors(fs, root):
        try:
            with fs.open(path, "rb") as file:
                found |= _shapes(_header(file)[1])
        except ValueError as error:
            raise InputError(f"{path}: {error} -> save, copy or download it again") from error
    return found


def read_text(address: str, name: str) -> str | None:
    """The text of a file of a folder or URI, as `tensor_shapes` takes it; None where there is none of this name.

    Raises:
        OSError: it cannot be read.
    """
    fs, root = _open(address)
    path = f"{root}/{name}"
    if not fs.exists(path):
        return None
    with fs.open(path, "rb") as file:
        return bytes(file.read()).decode(errors="replace")


def _open(address: str) -> tuple[Any, str]:
    return open_storage(address.partition("#")[0] if is_uri(address) else address)


def _shapes(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def cut_weights(address: str) -> list[str]:
    """Safetensors of a folder or URI whose length is not the one that their header says, in words.

    Raises:
        OSError: it cannot be read.
    """
    fs, root = _open(address)
    found = []
    for path in _safetensors(fs, root):
        name, size = path.rsplit("/", 1)[-1], int(fs.size(path))
        try:
            with fs.open(path, "rb") as file:
                length, entries = _header(file)
        except ValueError as error:
            found.append(f"{name}: {error}")
            continue
        expected = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if expected != size:
            found.append(f"{name} has {size:,} bytes where its header says {expected:,}")
    return found


def _safetensors(fs: Any, root: str) -> list[str]:
    names = sorted(str(path) for path in fs.ls(root, detail=False))
    return [
        path
        for path in names
        if path.endswith(".safetensors") and not _matches(path.rsplit("/", 1)[-1], ("consolidated*",))
    ]


def _header(file: Any) -> tuple[int, dict[str, dict[str, Any]]]:
    """Length and tensors of the header of a safetensors file that is open at its beginning.

    Raises:
        ValueError: the file is cut before its header ends, or is in another format.
    """
    start = file.read(8)
    (length,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
    header = file.read(length) if 0 < length <= MAX_HEADER_BYTES else b""
    try:
        entries = json.loads(header)
    except ValueError:
        raise ValueError("its header is cut, or it is no safetensors file") from None
    return length, {name: entry for name, entry in entries.items() if name != "__metadata__"}


def count_parameters(folder: Path) -> int:
    """Number of weights in a folder's safetensors, from their headers; tied weights and other formats count once."""
    sizes: dict[str, int] = {}
    for file in weight_files(folder):
        with file.open("rb") as weights:
            shapes = _shapes(_header(weights)[1])
        sizes |= {name: math.prod(shape) for name, shape in shapes.items()}
    return sum(sizes.values())


# Content


def content_digest(source: Path) -> str:
    """Hash of a model on this machine: of a file, or of the names and contents of a folder's model files.

    A model card beside them does not count. Every file is read whole, once (`file_digest`).
    """
    files = [source] if source.is_file() else [*model_files(source), *pickled_files(source)]
    digest = hashlib.sha256()
    for file in files:
        name = "" if source.is_file() else file.name
        digest.update(f"{name}\n{file_digest(file)}\n".encode())
    return digest.hexdigest()


# Links


def link_folder(original: Path, target: Path, chat_template: str | None) -> None:
    """Make a folder of links to a model's files and notices, without its other formats, with another chat template if
    one is given.

    The weights stay as they are, in their own precision and with all their parts.
    """
    target.mkdir(parents=True)
    for file in [*model_files(original), *notice_files(original)]:
        is_template = chat_template is not None and file.name in (TEMPLATE, "chat_template.json")
        if not is_template:
            (target / file.name).symlink_to(file.resolve())
    if chat_template is None:
        return
    (target / TEMPLATE).write_text(chat_template)
    settings = target / TOKENIZER_CONFIG
    if settings.is_file():
        values = json.loads(settings.read_text())
        values.pop("chat_template", None)
        settings.unlink()
        settings.write_text(json.dumps(values, indent=2, ensure_ascii=False))


def is_usable(folder: Path) -> bool:
    """Whether a cached folder is whole: its links may lead to files that are gone."""
    return (folder / CONFIG).is_file() and all(file.exists() for file in folder.iterdir())


def replace_folder(temporary: Path, target: Path) -> None:
    """Put a finished folder in its place, unless another process was faster."""
    if target.exists() and not is_usable(target):
        shutil.rmtree(target)
    if not target.exists():
        temporary.rename(target)
