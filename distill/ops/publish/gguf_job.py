"""`python -m distill.ops.publish.gguf_job JOB`: convert a model folder to GGUF, calibrate and quantise it.

A process of its own: the converter is a set of top-level modules that auto-round carries, and the quantiser is C++. The
last line that it prints is a `JobResult`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from cluster.cpus import has_fast_bf16
from distill.models.folder import weight_files
from distill.ops.publish.importance import mean_squares, of_tensors
from distill.ops.publish.kept import kept_shares
from distill.ops.publish.quantise import Importance, quantise

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
    outputs: tuple[tuple[str, int, bool], ...]
    """Path and type (`llama_ftype`) of every file, and whether it is calibrated."""
    base: str = ""
    """Model folder that the student was trained from, to tell what the files keep of the training; empty: not told."""
    rows: str = ""
    """JSON file with the token ids of the rows that it is calibrated on; empty: it is not."""
    dataset: str = ""
    """What these rows are, for the files' metadata."""


class JobResult(NamedTuple):
    """What the job found out."""

    kept: Mapping[str, float | None]
    """Path -> what the file keeps of the training; empty where that was not asked for."""
    calibrated: Sequence[str]
    """Tensors with an importance, in the files that are calibrated."""


def main(job: GgufJob) -> int:
    """Write the files; returns the exit code."""
    try:
        convert(Path(job.source), Path(job.whole), job.name)
    except NotImplementedError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return UNSUPPORTED
    rows = json.loads(Path(job.rows).read_text()) if job.rows else []
    importance = measure(job.source, job.whole, rows) if rows else {}
    notes: dict[str, str | int] = {
        "quantize.imatrix.file": "measured by distill publish, not kept",
        "quantize.imatrix.dataset": job.dataset,
        "quantize.imatrix.entries_count": len(importance),
        "quantize.imatrix.chunks_count": len(rows),
    }
    for path, number, is_calibrated in job.outputs:
        quantise(job.whole, path, number, importance if is_calibrated else {}, notes)
    kept: Mapping[str, float | None] = {}
    if job.base:
        base = f"{job.whole}.base"
        convert(Path(job.base), Path(base), job.name)
        kept = kept_shares(base, job.whole, [path for path, *_ in job.outputs])
    print(json.dumps(JobResult(kept, list(importance))))
    return 0


def measure(source: str, whole: str, rows: Sequence[Sequence[int]]) -> Importance:
    """The importance of a model's tensors.

    Args:
        source: model folder.
        whole: its GGUF file, not quantised.
        rows: token ids.
    """
    from transformers import AutoModelForCausalLM

    dtype = "bfloat16" if has_fast_bf16() else "float32"
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, trust_remote_code=False)
    return of_tensors(mean_squares(model, rows), model, whole)


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


if __name__ == "__main__":
    sys.exit(main(GgufJob(*json.loads(sys.argv[1]))))
