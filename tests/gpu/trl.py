"""TRL's SFTTrainer on the same rows, at its quickest settings that need no further package."""

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from distill.train.worker.batches import TrainRow
from tests.fixtures.byte_tokenizer import tokenizer
from tests.gpu.models import Size
from tests.gpu.ours import DEVICE, TUNES, wait

SETTINGS: dict[str, dict[str, Any]] = {"one": {}, "padded": {}}
"""One row per pass, or all rows of a step padded together; both with gradients added up to the step of ours.
Its padding-free packing needs the package flash-attn, and is tried where that is installed."""
if find_spec("flash_attn") is not None:
    SETTINGS["padding_free"] = {"padding_free": True}


def speed(
    model: Path, tune: str, batches: Sequence[list[TrainRow]], settings: str, *, size: Size, folder: Path
) -> dict[str, Any]:
    """Tokens per second of its steps."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    # Every step of its has as many rows as the first of ours has: its batches are of rows, not of tokens.
    count = min(len(batch) for batch in batches)
    rows = [row for batch in batches for row in batch[:count]]
    at_once = 1 if settings == "one" else count
    config = SFTConfig(
        output_dir=str(folder), use_cpu=DEVICE == "cpu", bf16=True, gradient_checkpointing=False,
        per_device_train_batch_size=at_once, gradient_accumulation_steps=count // at_once, max_steps=len(batches),
        max_length=size.tokens, max_grad_norm=1.0, logging_steps=10**6, save_strategy="no", report_to=[],
        disable_tqdm=True, train_sampling_strategy="sequential", optim="adamw_torch_fused",
        use_liger_kernel=DEVICE == "gpu" and find_spec("liger_kernel") is not None, **SETTINGS[settings],
    )  # fmt: skip
    data = [{"input_ids": list(row.input_ids), "labels": list(row.labels)} for row in rows]
    attention = "flash_attention_2" if settings == "padding_free" else "sdpa"
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32, attn_implementation=attention),
        config,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer(),
        peft_config=LoraConfig(r=TUNES["lora"].rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        if tune == "lora"
        else None,
    )
    ends: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait()
            ends.append(time.perf_counter())

    trainer.add_callback(Watch())
    trainer.train()
    tokens = sum(len(row.input_ids) for row in rows[size.warmup * count :])
    return {
        "tokens_per_s": round(tokens / (ends[-1] - ends[size.warmup - 1]), 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if DEVICE == "gpu" else None,
    }
