"""The student's model: loaded, with an adapter where the recipe asks for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cluster.storage import local_folder
from distill.config.models import text_settings
from distill.config.students import LoraTune
from distill.core.errors import InputError
from distill.core.schema import seed_for
from distill.models.language_part import inside, other_parts
from distill.train.worker.job import CellJob

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """The weights of a model folder, on the CPU.

    Raises:
        InputError: there are none, or they are not a causal language model's.
    """
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False)
    except (KeyError, OSError, ValueError) as error:
        raise InputError(f"{path}: no usable causal language model ({error})") from error


def without_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """The model inside an adapted one; any other as it is."""
    inner: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner


def stored_dtype(path: str) -> torch.dtype:
    """The precision that a model folder is stored in; its student is saved in the same."""
    settings = json.loads(Path(path, "config.json").read_text())
    config = settings if settings.get("dtype") or settings.get("torch_dtype") else text_settings(settings)
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name, torch.float32)


def build_student(job: CellJob) -> PreTrainedModel:
    """The student to train: all weights of its language part, or frozen with an adapter on it, new or the parent's."""
    torch.manual_seed(seed_for("student", job.seed))
    model = load_model(local_folder(job.model_path), job.dtype)
    if job.layout.checkpoint_activations:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if isinstance(job.student.tune, LoraTune):
        model = load_adapter(model, job.adapter_path) if job.adapter_path else add_adapter(model, job.student.tune)
    else:
        freeze_other_parts(model)
    if not job.has_dropout:
        stop_dropout(model)
    return model


def stop_dropout(model: torch.nn.Module) -> None:
    """Leave nothing to chance in a forward pass: weights come from a pass before the one that gives gradients."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def freeze_other_parts(model: PreTrainedModel) -> None:
    """Exempt vision towers and the like from training: text gives them no gradient, and they cost optimiser states."""
    for name in other_parts(model):
        model.get_submodule(name).requires_grad_(False)


def add_adapter(model: PreTrainedModel, tune: LoraTune) -> PreTrainedModel:
    """Freeze the model and put a low-rank adapter on its language part: a vision tower keeps its layers."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=tune.rank,
        lora_alpha=tune.alpha,
        lora_dropout=tune.dropout,
        target_modules=tune.targets if isinstance(tune.targets, str) else list(tune.targets),
        exclude_modules=inside(other_parts(model)),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)  # a PeftModel forwards to the model inside


def load_adapter(model: PreTrainedModel, address: str) -> PreTrainedModel:
    """Freeze the model and put an adapter on it that was trained before, to be trained on."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, local_folder(address), is_trainable=True)
