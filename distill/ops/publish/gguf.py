"""GGUF files of a student: written by llama.cpp's own converter and quantiser, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distill.core.errors import InputError, StageError
from distill.models.chat_template import end_of_turn
from distill.models.folder import TOKENIZER_CONFIG, link_folder
from distill.ops.publish.gguf_job import UNSUPPORTED, GgufJob

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.ops.publish.formats import GgufType

INSTALL = "pip install 'mix-distillation-on-ray[publish]'"
PACKAGES = ("auto_round", "cyllama")
"""llama.cpp's converter, and its quantiser."""


class GgufFile(NamedTuple):
    """A written file."""

    kind: GgufType
    path: Path
    tensors: str
    """Its tensors by the type that they are stored in, the most first: `150 Q5_0, 61 F32`."""
    kept: float | None = None
    """How much it keeps of what training changed: 1 all, 0 nothing; None: not known."""

    @property
    def is_base(self) -> bool:
        """Whether it is nearer to the base model than to the student."""
        return self.kept is not None and self.kept < 0.5


def kept_words(file: GgufFile) -> str:
    """What a file keeps of the training, in words; empty where it is not known."""
    if file.kept is None:
        return ""
    share = f"keeps {max(0.0, min(1.0, file.kept)):.0%} of what training changed"
    why = ": rounding took it back to its base model, whose weights were quantised before" if file.is_base else ""
    return share + why


def require_packages(packages: Sequence[str] = PACKAGES) -> None:
    """That the packages of the extra `publish` are installed.

    Raises:
        InputError: one is not.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise InputError(f"GGUF files need {' and '.join(missing)}, not installed here -> {INSTALL}")


def write_gguf(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    *,
    kinds: Sequence[GgufType],
    target: Path,
    base: Path | None = None,
) -> list[GgufFile]:
    """Write a model folder as GGUF files, `NAME-KIND.gguf` each.

    Args:
        folder: the model, with its chat template.
        tokenizer: of the model.
        name: of the files.
        kinds: how weights are stored.
        target: folder for them.
        base: folder of the model that it was trained from, where it is on this machine.

    Raises:
        InputError: a package is missing, or llama.cpp does not know the architecture or the tokenizer.
        StageError: the conversion failed.
    """
    require_packages()
    end = end_of_turn(tokenizer)[-1]
    paths = {kind: target / gguf_name(name, kind) for kind in kinds}
    with tempfile.TemporaryDirectory(prefix=".gguf-", dir=target) as temporary:
        source = Path(temporary) / "model"
        link_folder(folder, source, tokenizer.chat_template)
        set_end_token(source, str(tokenizer.convert_ids_to_tokens(end)))
        outputs = tuple((str(path), kind.number) for kind, path in paths.items())
        kept = _run(GgufJob(str(source), name, str(Path(temporary) / "whole.gguf"), outputs, str(base or "")))
    return [GgufFile(kind, path, check_file(path, end), kept.get(str(path))) for kind, path in paths.items()]


def gguf_name(name: str, kind: GgufType) -> str:
    """Name of a GGUF file."""
    return f"{name}-{kind.name}.gguf"


def set_end_token(folder: Path, end: str) -> None:
    """Have the tokenizer's end of sequence be the token that was taught: llama.cpp stops there, whatever the base
    model's files say. `folder`: a folder of links."""
    settings = folder / TOKENIZER_CONFIG
    values = json.loads(settings.read_text()) | {"eos_token": end}
    settings.unlink()
    settings.write_text(json.dumps(values, ensure_ascii=False))


def _run(job: GgufJob) -> dict[str, float | None]:
    """What every file keeps of the training, where that was asked for."""
    command = [sys.executable, "-m", "distill.ops.publish.gguf_job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return dict(json.loads(done.stdout.strip().splitlines()[-1])) if job.base else {}
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no message"]
    if done.returncode == UNSUPPORTED:
        raise InputError(f"{job.name}: llama.cpp cannot convert it: {lines[-1]} -> use --formats safetensors")
    raise StageError(f"{job.name}: no GGUF file was written (exit code {done.returncode}): {lines[-1]}")


def check_file(path: Path, end: int) -> str:
    """The tensors of a file by the type that they are stored in. A file is read once: its vocabulary takes seconds.

    `end`: the token that the student was taught to end with.

    Raises:
        StageError: generation would end elsewhere.
    """
    import gguf

    reader = gguf.GGUFReader(path)
    field = reader.get_field("tokenizer.ggml.eos_token_id")
    found = None if field is None else int(field.contents())
    if found != end:
        raise StageError(f"{path.name}: generation would end with token {found}, the student was taught {end}")
    counts = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
