"""Saves the trained student as a model folder that any library can load, and checks it by loading it."""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn import functional

from cluster.storage import local_folder
from distill.config.students import LoraTune
from distill.core.errors import StageError
from distill.core.run_dir import Training
from distill.core.saved_files import ADAPTER, FILES, MODEL, SavedFile, saved_files
from distill.models.chat_template import IGNORED, end_of_turn
from distill.models.resolve import AdapterBase, load_tokenizer
from distill.models.save import save_beside_adapter, save_folder
from distill.train.worker.batches import TrainRow
from distill.train.worker.checkpoint import writing
from distill.train.worker.student import build_student, stored_dtype, without_adapter

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from distill.core.run_dir import RunDir
    from distill.train.worker.job import CellJob
    from distill.train.worker.loss import ResponseLoss

PROBE_ROWS = 4
PROBE_TOLERANCE = 1e-3
"""The same weights, loaded again, give the same loss up to rounding."""
ROUGH_TOLERANCE = 0.05
"""The same for weights of 16 bits, whose logits are of 16 bits too: the trained ones are on a GPU, the loaded ones on a
CPU, which round differently. That the weights are equal is told by their hashes."""
MERGE_TOLERANCE = 0.02
"""Merging rounds the adapter's change to the precision of the weights, bf16 on a GPU."""


def export_student(
    job: CellJob, run_dir: RunDir, engine: DeepSpeedEngine, *, rows: Sequence[TrainRow],
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:  # fmt: skip
    """Save the student (merged, and its adapter too), load it and compare. Every worker must call it.

    Returns what the manifest tells of it, with the length and hash of every file that was saved; on other workers than
    the first, nothing.

    Raises:
        StageError: what was loaded is not what was trained.
    """
    model = _consolidated(job, engine)
    if model is None:
        return {}
    probe, files = probe_rows(rows), {}
    if isinstance(job.student.tune, LoraTune):
        model, files[ADAPTER] = _save_adapter(job, run_dir, model, probe=probe, tokenizer=tokenizer)
    _cast_weights(model, stored_dtype(local_folder(job.model_path)))
    set_generation_config(model, tokenizer)
    trained = probe_loss(model, probe)
    digests = {name: digest(tensor) for name, tensor in model.state_dict().items()}
    run_dir.remove(*Training(job.cell).model)
    with writing(run_dir, *Training(job.cell).model) as folder:
        save_folder(model, tokenizer, folder)
        del model
        gc.collect()
        loss = check_saved(folder, digests, probe, expected_loss=trained)
        files[MODEL] = saved_files(folder)
    return {"probe_loss": loss, FILES: files}


def _save_adapter(
    job: CellJob, run_dir: RunDir, model: PreTrainedModel, *, probe: Sequence[TrainRow],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[PreTrainedModel, dict[str, SavedFile]]:  # fmt: skip
    """Save the adapter with what another machine needs to use it. Returns the model with the adapter merged into it,
    and the saved files.

    Raises:
        StageError: merged, it is another model.
    """
    set_generation_config(without_adapter(model), tokenizer)
    base = job.base or AdapterBase(local_folder(job.model_path))
    with writing(run_dir, *Training(job.cell).adapter) as folder:
        model.save_pretrained(str(folder))
        save_beside_adapter(without_adapter(model), tokenizer, folder, base.name, base.revision)
        files = saved_files(folder)
    adapted = probe_loss(model, probe)
    merged: PreTrainedModel = model.merge_and_unload()
    loss = probe_loss(merged, probe)
    if not abs(loss - adapted) <= MERGE_TOLERANCE * max(1.0, adapted):
        raise StageError(f"{job.cell}: with its adapter merged its loss is {loss:.4f}, before it was {adapted:.4f}")
    return merged, files


def _cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    # Not model.to(): it would round the buffers as well (rotary frequencies), which a loaded model keeps in fp32.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def digest(tensor: torch.Tensor) -> str:
    """Hash of a tensor's type, shape and bytes."""
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + content.tobytes()).hexdigest()


def _consolidated(job: CellJob, engine: DeepSpeedEngine) -> PreTrainedModel | None:
    """The whole model in the memory of the first worker; None on the others."""
    loss: ResponseLoss = engine.module
    if job.layout.zero_stage < 3:
        return loss.release() if dist.get_rank() == 0 else None
    state = _gathered(loss.release())
    if dist.get_rank() != 0:
        return None
    model = build_student(job)
    model.load_state_dict(state, strict=False)
    return model


def _gathered(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The trained weights that ZeRO 3 has partitioned over the workers: gathered by all, kept by the first."""
    import deepspeed

    state = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters([parameter]):
            if dist.get_rank() == 0:
                state[name] = parameter.detach().cpu().clone()
    return state


def set_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Engines stop at the token that the student was taught to stop at, also where the base model's is another."""
    config = model.generation_config
    assert config is not None
    known = config.eos_token_id
    ends = [] if known is None else [known] if isinstance(known, int) else list(known)
    end_token = end_of_turn(tokenizer)[-1]
    config.eos_token_id = [end_token, *[end for end in ends if end != end_token]]
    config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_token


def probe_rows(rows: Sequence[TrainRow]) -> list[TrainRow]:
    """A few rows, the shortest."""
    return sorted(rows, key=lambda row: (len(row.input_ids), row.trace_id))[:PROBE_ROWS]


def probe_loss(model: PreTrainedModel, rows: Sequence[TrainRow]) -> float:
    """Mean loss per supervised token of a few rows, one after another, by the plain model."""
    model.eval()
    total = 0.0
    for row in rows:
        ids, labels = (torch.tensor([values], device=model.device) for values in (row.input_ids, row.labels))
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total += float(functional.cross_entropy(logits, labels[0, 1:], ignore_index=IGNORED, reduction="sum"))
    return total / sum(row.supervised_tokens for row in rows)


def check_saved(
    folder: Path, digests: Mapping[str, str], probe: Sequence[TrainRow], *, expected_loss: float | None
) -> float:
    """Load a saved student and compare it with what was saved; its loss on the probe rows.

    `expected_loss`: that of the model before it was saved; None where there was only a set of tensors.

    Raises:
        StageError: weights are missing, different or not finite, or the loss differs.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(str(folder))
    model, info = AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto", output_loading_info=True)
    state = model.state_dict()
    faults = [f"{kind.replace('_', ' ')}: {sorted(map(str, names))[:3]}" for kind, names in info.items() if names]
    faults += [f"{name} differs" for name, known in digests.items() if digest(state[name]) != known]
    faults += [f"{name} is not finite" for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    faults += [] if tokenizer.chat_template else ["no chat template"]
    loss = probe_loss(model, probe)
    tolerance = PROBE_TOLERANCE if model.dtype == torch.float32 else ROUGH_TOLERANCE
    if not math.isfinite(loss):
        faults.append(f"loss {loss}")
    elif expected_loss is not None and abs(loss - expected_loss) > tolerance * max(1.0, expected_loss):
        faults.append(f"loss {loss:.4f} where the trained model had {expected_loss:.4f}")
    if faults:
        raise StageError(
            f"the student saved in {folder} is not the one that was trained or merged: {'; '.join(faults[:5])}"
        )
    return loss
