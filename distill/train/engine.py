"""The student that is trained and the DeepSpeed engine around it: model, adapter, precision, optimiser."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.cpp_extension import get_default_build_root

from cluster.storage import local_folder
from distill.config import LoraTune, StudentConfig, TrainConfig
from distill.layout import BUCKET_ELEMENTS, Layout
from distill.schema import seed_for
from distill.train.device import wait_for_compiler
from distill.train.lean import make_lean
from distill.train.loss import ResponseLoss, has_plain_head
from distill.train.row_attention import use_row_attention

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine
    from transformers import PreTrainedModel

    from distill.model_shape import ModelShape


@dataclass(frozen=True)
class CellJob:
    """Everything a worker needs to know. Travels to it by pickle."""

    cell: str
    key: str
    run_uri: str
    model_path: str
    shards: tuple[str, ...]
    student: StudentConfig
    train: TrainConfig
    seed: int
    device: Literal["cpu", "gpu"]
    threads: int
    layout: Layout
    num_workers: int
    shape: ModelShape | None = None
    early_shards: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    is_early: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """What weights and gradients are kept in."""
        return torch.bfloat16 if self.device == "gpu" else torch.float32

    @property
    def is_mixed(self) -> bool:
        """Whether matrix products are in bf16 beside fp32 weights: on CPUs that have instructions for it."""
        return self.device == "cpu" and has_fast_bf16()

    @property
    def precision(self) -> str:
        """In words, for the manifest."""
        return "bf16 products, fp32 weights" if self.is_mixed else str(self.dtype).removeprefix("torch.")


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices faster than fp32 ones (AVX-512 BF16, AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def build_loss(job: CellJob, num_pools: int) -> ResponseLoss:
    """The student with its loss, by the leanest way that it is shown to be capable of."""
    model = build_student(job)
    if job.device == "cpu":
        make_lean(model)
    return ResponseLoss(
        model,
        num_pools,
        packs=use_row_attention(model),
        is_fused=has_plain_head(model),
        is_mixed=job.is_mixed,
    )


def build_student(job: CellJob) -> PreTrainedModel:
    """The student to train: all its weights, or frozen with an adapter on it."""
    from distill.train.export import load_model

    torch.manual_seed(seed_for("student", job.seed))
    model = load_model(local_folder(job.model_path), job.dtype)
    if job.layout.checkpoint_activations:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if isinstance(job.student.tune, LoraTune):
        return add_adapter(model, job.student.tune)
    return model


def add_adapter(model: PreTrainedModel, tune: LoraTune) -> PreTrainedModel:
    """Freeze the model and put a low-rank adapter on it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=tune.rank,
        lora_alpha=tune.alpha,
        lora_dropout=tune.dropout,
        target_modules=tune.targets if isinstance(tune.targets, str) else list(tune.targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)  # a PeftModel forwards to the model inside


def build_engine(job: CellJob, loss: ResponseLoss) -> DeepSpeedEngine:
    """The DeepSpeed engine around the student and its optimiser."""
    import deepspeed

    if job.device == "cpu":
        wait_for_compiler(Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()))
    engine, *_ = deepspeed.initialize(
        model=loss,
        optimizer=_optimizer(job, loss),
        config=engine_config(job.layout, job.train, job.device),
        dist_init_required=False,
    )
    if job.num_workers == 1 and job.layout.zero_stage == 0:
        # Nobody to share gradients with: DeepSpeed would copy all of them to a buffer and back.
        engine.enable_backward_allreduce = False
    return engine


def engine_config(layout: Layout, train: TrainConfig, device: Literal["cpu", "gpu"]) -> dict[str, Any]:
    """DeepSpeed's configuration of a cell. Accumulation is steered per step, as the last batch may be smaller."""
    zero: dict[str, Any] = {"stage": layout.zero_stage}
    if device == "cpu":
        # The defaults take 2 GB for a model of a quarter of that.
        bucket = BUCKET_ELEMENTS["cpu"]
        zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if layout.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": layout.micro_batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {"enabled": device == "gpu"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # Offloaded states are updated by torch's own Adam: DeepSpeed's is a C++ extension that needs a compiler.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def _optimizer(job: CellJob, loss: ResponseLoss) -> torch.optim.Optimizer:
    trained = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    # Norms and biases (one dimension) are never decayed.
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": job.train.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=job.student.tune.learning_rate, fused=True
    )
