"""GGUF files of a student: written by llama.cpp's own converter and quantiser, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distill.core.errors import InputError, StageError
from distill.models.chat_template import end_of_turn
from distill.models.folder import TOKENIZER_CONFIG, link_folder
from distill.ops.publish.gguf_job import UNSUPPORTED, GgufJob, JobResult

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.ops.publish.calibration import Calibration
    from distill.ops.publish.formats import GgufType

INSTALL = "pip install 'mix-distillation-on-ray[publish]'"
PACKAGES = ("auto_round", "cyllama")
"""llama.cpp's converter, and its quantiser."""
WHOLE_TYPES = ("F32", "F16", "BF16")
"""Of tensors that are not quantised."""


class GgufFile(NamedTuple):
    """A written file."""

    kind: GgufType
    path: Path
    tensors: str
    """Its tensors by the type that they are stored in, the most first: `150 Q5_0, 61 F32`."""
    kept: float | None = None
    """How much it keeps of what training changed: 1 all, 0 nothing; None: not known."""
    calibrated_on: str = ""
    """The traces that its rounding was fitted to, in words; empty: it was not."""
    uncalibrated: tuple[str, ...] = ()
    """Kinds of tensors in its blocks that were quantised without, though there were traces: `ffn_down_exps`."""

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


def calibration_words(file: GgufFile) -> str:
    """Whether a file was calibrated and what was left out, in words; empty for one with so many bits that none is."""
    if not file.kind.is_coarse:
        return ""
    if not file.calibrated_on:
        why = ": no layer that is run here is a tensor of the file" if file.uncalibrated else ""
        return f"was not calibrated{why}"
    left_out = f", but for {', '.join(file.uncalibrated)}" if file.uncalibrated else ""
    return f"was calibrated on {file.calibrated_on}{left_out}"


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
    calibration: Calibration | None = None,
) -> list[GgufFile]:
    """Write a model folder as GGUF files, `NAME-KIND.gguf` each.

    Args:
        folder: the model, with its chat template.
        tokenizer: of the model.
        name: of the files.
        kinds: how weights are stored.
        target: folder for them.
        base: folder of the model that it was trained from, where it is on this machine.
        calibration: rows that the rounding of files below eight bits is fitted to.

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
        outputs = tuple((str(path), kind.number, kind.is_coarse) for kind, path in paths.items())
        job = GgufJob(str(source), name, str(Path(temporary) / "whole.gguf"), outputs, str(base or ""))
        if calibration:
            rows = Path(temporary) / "rows.json"  # a command line does not hold so many
            rows.write_text(json.dumps(calibration.rows))
            job = job._replace(rows=str(rows), dataset=calibration.words)
        result = _run(job)
    return [_written(kind, path, end, result, calibration) for kind, path in paths.items()]


def _written(kind: GgufType, path: Path, end: int, result: JobResult, calibration: Calibration | None) -> GgufFile:
    tensors = check_file(path, end)
    counts = ", ".join(f"{count} {name}" for name, count in Counter(tensors.values()).most_common())
    kept = result.kept.get(str(path))
    if calibration is None or not kind.is_coarse:
        return GgufFile(kind, path, counts, kept)
    calibrated_on = calibration.words if result.calibrated else ""
    return GgufFile(kind, path, counts, kept, calibrated_on, uncalibrated(tensors, result.calibrated))


def uncalibrated(tensors: Mapping[str, str], calibrated: Collection[str]) -> tuple[str, ...]:
    """The kinds of quantised tensors in blocks that had no importance: `ffn_down_exps`. Those outside, which hold a
    row or a logit for every word, llama.cpp leaves out as well.

    `tensors`: to the type that they are stored in.
    """
    left = set(tensors).difference(calibrated)
    names = {name.split(".")[2] for name in left if name.startswith("blk.") and tensors[name] not in WHOLE_TYPES}
    return tuple(sorted(names))


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


def _run(job: GgufJob) -> JobResult:
    command = [sys.executable, "-m", "distill.ops.publish.gguf_job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return JobResult(*json.loads(done.stdout.strip().splitlines()[-1]))
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no message"]
    if done.returncode == UNSUPPORTED:
        raise InputError(f"{job.name}: llama.cpp cannot convert it: {lines[-1]} -> use --formats safetensors")
    raise StageError(f"{job.name}: no GGUF file was written (exit code {done.returncode}): {lines[-1]}")


def check_file(path: Path, end: int) -> dict[str, str]:
    """The tensors of a file, with the type that each is stored in. A file is read once: its vocabulary takes seconds.

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
    return {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
