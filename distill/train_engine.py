"""The student that is trained and the DeepSpeed engine around it: model, adapter, loss, optimiser."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn import functional
from torch.utils.cpp_extension import get_default_build_root

from distill.config import LoraTune, StudentConfig, TrainConfig
from distill.layout import BUCKET_ELEMENTS, Layout
from distill.render import IGNORED
from distill.schema import seed_for
from distill.train_device import wait_for_compiler

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

    @property
    def dtype(self) -> torch.dtype:
        """fp32 on CPU: without AMX bf16 is slower there (34 against 50 GFLOP/s per core, AVX-512 BF16) and coarser."""
        return torch.bfloat16 if self.device == "gpu" else torch.float32


class ResponseLoss(torch.nn.Module):
    """A causal model whose forward returns the summed loss of the supervised tokens.

    Only their hidden states reach the output layer: logits of prompts and padding are never computed.
    """

    def __init__(self, model: PreTrainedModel, num_pools: int) -> None:
        super().__init__()
        self.model = model
        self.num_pools = num_pools
        self._kept = torch.empty(0)
        self._hook = model.get_output_embeddings().register_forward_pre_hook(self._select)

    def _select(self, _module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0][self._kept].unsqueeze(0), *args[1:])

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, pools: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to differentiate, and a [pool, (loss, tokens)] table."""
        targets = labels[:, 1:]
        kept = targets != IGNORED
        self._kept = functional.pad(kept, (0, 1))
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[0]
        losses = functional.cross_entropy(logits.float(), targets[kept], reduction="none")
        seen = losses.detach().double()
        table = torch.zeros(self.num_pools, 2, dtype=torch.double, device=losses.device)
        table.index_add_(0, pools[:, None].expand_as(kept)[kept], torch.stack([seen, torch.ones_like(seen)], dim=1))
        return losses.sum(), table

    def release(self) -> PreTrainedModel:
        """The bare model again, with logits for every position."""
        self._hook.remove()
        return self.model


def build_student(job: CellJob) -> PreTrainedModel:
    """The student to train: all its weights, or frozen with an adapter on it."""
    from distill.train_export import load_model

    torch.manual_seed(seed_for("student", job.seed))
    model = load_model(job.model_path, job.dtype)
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
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=job.student.tune.learning_rate)
