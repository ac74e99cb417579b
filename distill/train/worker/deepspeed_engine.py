"""The DeepSpeed engine of a cell: the student with its loss, precision and optimiser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.cpp_extension import get_default_build_root

from distill.config.train import TrainConfig
from distill.train.layout import BUCKET_ELEMENTS, Layout
from distill.train.worker.device import wait_for_compiler
from distill.train.worker.job import CellJob
from distill.train.worker.kernels.choose import use_kernels
from distill.train.worker.loss import ResponseLoss, has_plain_head
from distill.train.worker.student import build_student

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


def build_loss(job: CellJob) -> ResponseLoss:
    """The student with its loss, with those optimisations that are found to be exact for its model."""
    model = build_student(job)
    if job.device == "gpu":
        model.to("cuda")  # kernels are tried where they will run; DeepSpeed would move the model as well
    computed = use_kernels(model, job.train.kernels, job.device)
    return ResponseLoss(
        model,
        packing=computed.packing,
        kernels=computed.kernels,
        is_fused=has_plain_head(model),
        is_mixed=job.is_mixed,
    )


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
        # No other worker to share gradients with: DeepSpeed would copy all of them to a buffer and back.
        engine.enable_backward_allreduce = False
    return engine


def engine_config(layout: Layout, train: TrainConfig, device: Literal["cpu", "gpu"]) -> dict[str, Any]:
    """DeepSpeed's configuration of a cell. Accumulation is set per step, as the last batch may be smaller."""
    # Without ZeRO, DeepSpeed adds up the gradients of micro-batches in bf16. On one GPU stage 1 shares nothing.
    zero: dict[str, Any] = {"stage": layout.zero_stage or int(device == "gpu")}
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
        "data_types": {"grad_accum_dtype": "fp32"},
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
