"""Our trainer's own parts on one GPU (or, for a try, a CPU), without Ray and without a run around them."""

import gc
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine

from distill.config.students import FullTune, LoraTune, StudentConfig
from distill.config.train import KernelChoice, TrainConfig
from distill.models.shape import shape_of
from distill.train.budget import train_flops
from distill.train.layout import Device, Layout
from distill.train.worker.batches import TrainRow, made_ahead
from distill.train.worker.deepspeed_engine import build_engine, build_loss
from distill.train.worker.device import mfu, peak_flops
from distill.train.worker.job import CellJob
from distill.train.worker.kernels.attention import Packing, use_packed_attention
from distill.train.worker.loss import ResponseLoss, row_tensors
from distill.train.worker.process import prepare_process
from distill.train.worker.student import add_adapter, load_model
from tests.gpu.models import Size

TUNES = {"full": FullTune(learning_rate=1e-5), "lora": LoraTune(rank=16, learning_rate=2e-4)}
DEVICE: Device = "gpu" if torch.cuda.is_available() else "cpu"
WHERE = torch.device("cuda" if DEVICE == "gpu" else "cpu")
PRECISION = torch.bfloat16 if DEVICE == "gpu" else torch.float32


@contextmanager
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    os.environ.setdefault("LOCAL_RANK", "0")  # Ray Train sets it for its workers; DeepSpeed asks for it
    backend = "nccl" if DEVICE == "gpu" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def job_of(model: Path, tune: str, tokens: int, kernels: KernelChoice = "auto") -> CellJob:
    return CellJob(
        cell="check", key="", run_uri="", model_path=str(model), shards=(),
        student=StudentConfig(name="s", model="m", tune=TUNES[tune]),
        train=TrainConfig(max_length=tokens, kernels=kernels),
        seed=0, device=DEVICE, threads=torch.get_num_threads(), layout=Layout(micro_batch_size=1), num_workers=1,
    )  # fmt: skip


def engine_of(job: CellJob) -> DeepSpeedEngine:
    prepare_process(job)
    return build_engine(job, build_loss(job))


def train(engine: DeepSpeedEngine, batches: Sequence[list[TrainRow]]) -> list[float]:
    """An optimiser step for every batch of rows; the mean losses, which are fetched after the last step."""
    losses = []
    for rows, tensors in zip(
        batches, made_ahead(batches, lambda one: row_tensors(one, ["pool"], 0, WHERE)), strict=True
    ):
        loss, _ = engine(**tensors.inputs)
        mean = loss / sum(row.supervised_tokens for row in rows)
        engine.backward(mean, scale_wrt_gas=False)
        engine.step()
        losses.append(mean.detach())
    return [float(loss) for loss in losses]


def wait() -> None:
    """Until the device has done what it was asked to do."""
    if DEVICE == "gpu":
        torch.cuda.synchronize()


def free() -> None:
    """Give the memory of a measurement back before the next."""
    gc.collect()
    if DEVICE == "gpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def speed(
    settings: dict[str, Any], model: Path, tune: str, batches: Sequence[list[TrainRow]], *, size: Size,
    kernels: KernelChoice = "auto",
) -> dict[str, Any]:  # fmt: skip
    """Tokens per second and MFU of our steps."""
    engine = engine_of(job_of(model, tune, size.tokens, kernels))
    train(engine, batches[: size.warmup])
    wait()
    started = time.perf_counter()
    losses = train(engine, batches[size.warmup :])
    wait()
    seconds = time.perf_counter() - started
    rows = [row for batch in batches[size.warmup :] for row in batch]
    lengths, supervised = [len(row.input_ids) for row in rows], sum(row.supervised_tokens for row in rows)
    flops = train_flops(shape_of(settings), TUNES[tune], lengths, supervised)
    return {
        "tokens_per_s": round(sum(lengths) / seconds, 1),
        "mfu": mfu(flops, seconds, peak_flops(DEVICE, 1)),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if DEVICE == "gpu" else None,
        "losses": [round(loss, 4) for loss in (losses[0], losses[-1])],
        "layout": engine.module.layout,
    }


def packing_error(model: Path, rows: list[TrainRow]) -> dict[str, Any]:
    """Packed rows against each row alone in the model's own attention: relative difference of loss and gradient."""
    own = load_model(str(model), PRECISION).to(WHERE)
    known_loss, known = _loss_and_gradient(own, Packing("", ""), [[row] for row in rows])
    packing = use_packed_attention(own)
    found_loss, found = _loss_and_gradient(own, packing, [rows])
    return {
        "attention": packing.attention,
        "reason": packing.reason,
        "loss": round(abs(found_loss - known_loss) / known_loss, 7),
        "gradient": round(float((found - known).norm() / known.norm()), 6),
    }


def _loss_and_gradient(model: Any, packing: Packing, batches: list[list[TrainRow]]) -> tuple[float, torch.Tensor]:
    loss = ResponseLoss(model, packing=packing, is_fused=False, is_mixed=False)
    model.zero_grad()
    total = 0.0
    for batch in batches:
        value, _ = loss(**row_tensors(batch, ["pool"], 0, WHERE).inputs)
        value.backward()
        total += float(value.detach())
    loss.release()
    return total, torch.cat([weight.grad.float().flatten() for weight in model.parameters() if weight.grad is not None])


def resume_error(model: Path, batches: Sequence[list[TrainRow]], folder: Path, tokens: int) -> float:
    """Largest difference of the losses after a checkpoint: of a new engine that loads it and the one that goes on."""
    half = len(batches) // 2
    job = job_of(model, "full", tokens)
    engine = engine_of(job)
    train(engine, batches[:half])
    engine.save_checkpoint(str(folder), tag="state", save_latest=False)
    undisturbed = train(engine, batches[half:])
    resumed = engine_of(replace(job, seed=1))
    resumed.load_checkpoint(str(folder), tag="state", load_module_strict=False, load_lr_scheduler_states=False)
    found = train(resumed, batches[half:])
    return max(abs(one - other) for one, other in zip(undisturbed, found, strict=True))


def merge_error(model: Path, rows: list[TrainRow]) -> dict[str, float]:
    """A trained-sized adapter merged in the training precision and in fp32: relative differences of the logits."""
    from peft import PeftModel

    errors = {}
    for name, dtype in (("own precision", PRECISION), ("fp32", torch.float32)):
        adapted: PeftModel = add_adapter(load_model(str(model), dtype), TUNES["lora"]).to(WHERE)
        generator = torch.Generator().manual_seed(0)
        for parameter_name, weight in adapted.named_parameters():
            if "lora_B" in parameter_name:
                weight.data.copy_(torch.randn(weight.shape, generator=generator) * 1e-3)
        ids = torch.tensor([rows[0].input_ids], device=WHERE)
        with torch.no_grad():
            before = adapted(input_ids=ids, use_cache=False).logits.float()
            after = adapted.merge_and_unload()(input_ids=ids, use_cache=False).logits.float()
        errors[name] = round(float((after - before).norm() / before.norm()), 7)
    return errors
