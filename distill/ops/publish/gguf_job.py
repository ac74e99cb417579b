"""`python -m distill.ops.publish.gguf_job JOB`: convert a model folder to GGUF, and quantise it.

A process of its own: the converter is a set of top-level modules that auto-round carries, and the quantiser is C++.
"""

import json
import os
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from distill.models.folder import weight_files

UNSUPPORTED = 3
"""Exit code where llama.cpp does not know the architecture or the tokenizer."""
WHOLE = {"F32": "f32", "F16": "f16"}
"""Type of the weights -> that of the file that is quantised; bf16 otherwise."""


class GgufJob(NamedTuple):
    """What to write."""

    source: str
    """Model folder."""
    name: str
    """Name of the model in the files."""
    whole: str
    """Path of the file with whole weights, which is temporary."""
    outputs: tuple[tuple[str, int], ...]
    """Path and type (`llama_ftype`) of every file."""
    base: str = ""
    """Model folder that the student was trained from, to tell what the files keep of the training; empty: not told."""


def main(job: GgufJob) -> int:
    """Write the files; returns the exit code."""
    try:
        convert(Path(job.source), Path(job.whole), job.name)
    except NotImplementedError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return UNSUPPORTED
    for path, number in job.outputs:
        quantise(job.whole, path, number)
    if job.base:
        base = f"{job.whole}.base"
        convert(Path(job.base), Path(base), job.name)
        print(json.dumps(kept_shares(base, job.whole, [path for path, _ in job.outputs])))
    return 0


def convert(source: Path, target: Path, name: str) -> None:
    """Write a model folder as one GGUF file, in the precision of its weights.

    Raises:
        NotImplementedError: llama.cpp does not know the architecture or the tokenizer.
    """
    import torch
    from auto_round.export.export_to_gguf.export import FTYPE_MAP
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    # Without a folder it does not look for the architecture: it would take a name that gguf lacks for one that it does
    # not support. With updates it would fetch code from the network.
    conversion = get_conversion(auto_update=False)
    settings = conversion.ModelBase.load_hparams(source, False)
    architecture = conversion.get_model_architecture(settings, conversion.ModelType.TEXT)
    with torch.inference_mode():
        converter(conversion, architecture)(
            dir_model=source,
            ftype=FTYPE_MAP[WHOLE.get(weight_type(source), "bf16")],
            fname_out=target,
            is_big_endian=False,
            model_name=name,
            hparams=settings,
        ).write()


def converter(conversion: Any, architecture: str) -> Any:
    """llama.cpp's class for an architecture.

    auto-round carries a newer converter than any published gguf package: a module of it whose other classes name what
    gguf does not know cannot be imported. Such names are given the value None; a class that is known by none of them
    converts as ever (auto-round 0.16.1, gguf 0.19.0: Qwen 2 and 3, Gemma 3, DeepSeek, Granite).

    Raises:
        NotImplementedError: llama.cpp, or gguf, does not know the architecture.
    """
    while True:
        try:
            found = conversion.get_model_class(architecture)
        except AttributeError as error:
            names = error.obj
            if error.name is None or not (isinstance(names, type) and issubclass(names, Enum)):
                raise
            setattr(names, error.name, None)
            continue
        if found.model_arch is None:
            raise NotImplementedError(f"{architecture} is newer than the gguf package")
        return found


def weight_type(folder: Path) -> str:
    """The type of a folder's first tensor, as safetensors calls it."""
    from safetensors import safe_open

    with safe_open(weight_files(folder)[0], framework="pt") as file:
        return str(file.get_slice(next(iter(file.keys()))).get_dtype())


def quantise(whole: str, target: str, number: int) -> None:
    """Write a GGUF file with its weights in another type. `number`: of that type, `llama_ftype`."""
    from cyllama.llama import llama_cpp

    settings = llama_cpp.LlamaModelQuantizeParams()
    settings.ftype, settings.nthread = number, os.cpu_count() or 1
    llama_cpp.model_quantize(whole, target, settings)


def kept_shares(base: str, whole: str, targets: Sequence[str]) -> dict[str, float | None]:
    """How much files keep of what training changed: their difference from the base model, projected on the student's.

    1: all of it, on the mean, beside the noise of rounding; 0: the file is the base model. Weights that were read from
    a quantised file are rounded back to it by as few bits (findings/gguf_quantised_twice.sh).

    Args:
        base: GGUF file of the base model, not quantised.
        whole: of the student, not quantised.
        targets: of the student.

    Returns:
        Target -> its share; None where training changed no weight.
    """
    from gguf import GGUFReader

    before, trained, *written = (
        {one.name: one for one in GGUFReader(path).tensors} for path in (base, whole, *targets)
    )
    left, total = dict.fromkeys(targets, 0.0), 0.0
    for name, start in before.items():
        end = trained.get(name)
        if end is None or tuple(start.shape) != tuple(end.shape):
            continue  # a vocabulary that was widened for the training
        values = weights(start)
        change = weights(end) - values
        if change.any():
            total += float((change * change).sum(dtype="float64"))
            for path, tensors in zip(targets, written, strict=True):
                left[path] += float(((weights(tensors[name]) - values) * change).sum(dtype="float64"))
    return {path: one / total if total else None for path, one in left.items()}


def weights(tensor: Any) -> Any:
    """The weights of a tensor of a GGUF file, fp32."""
    from gguf.quants import dequantize

    return dequantize(tensor.data, tensor.tensor_type)


if __name__ == "__main__":
    sys.exit(main(GgufJob(*json.loads(sys.argv[1]))))
