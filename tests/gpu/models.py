"""Models of real sizes with random weights, and rows for them, made on the spot."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distill.models.chat_template import IGNORED
from distill.train.worker.batches import TrainRow

QWEN = {"model_type": "qwen2", "vocab_size": 151_936, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "max_position_embeddings": 32_768}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {**QWEN, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5B": {**QWEN, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12},
    "toy": {**QWEN, "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4},
}  # fmt: skip
"""Of Qwen2.5, and one for machines without a GPU."""
SMALL = {"vocab_size": 300, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
         "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "qwen3": {**SMALL, "model_type": "qwen3", "head_dim": 64},
    "qwen2 with windows": {**SMALL, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 32,
                           "max_window_layers": 2},
    "gemma3": {**SMALL, "model_type": "gemma3_text", "head_dim": 128, "sliding_window": 32, "layer_types":
               ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]},
    "smollm3": {**SMALL, "model_type": "smollm3", "no_rope_layers": [1, 1, 0, 1]},
}  # fmt: skip
"""One model of every kind of layer that is packed; the windows are shorter than the rows."""


class Size(NamedTuple):
    """A micro-batch to measure with."""

    tokens: int
    warmup: int
    steps: int


def save_model(settings: dict[str, Any], folder: Path, device: str) -> Path:
    """A model folder with random weights in bf16."""
    values = dict(settings)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(str(folder))
    return folder


def packed_row_lengths(tokens: int, seed: int) -> list[int]:
    """Row lengths that fill a micro-batch: one long row in five, as in the paper's mix, the last one cut to fit."""
    chooser, lengths = random.Random(seed), list[int]()
    while (room := tokens - sum(lengths)) > 1:
        mean = tokens / 4 if len(lengths) % 5 == 0 else tokens / 24
        lengths.append(max(2, min(room, round(mean * chooser.uniform(0.6, 1.4)))))
    lengths[-1] += tokens - sum(lengths)
    return lengths


def make_rows(lengths: Sequence[int], vocab: int, seed: int) -> list[TrainRow]:
    """Rows of random tokens, of which the first tenth is the prompt."""
    chooser = random.Random(seed)
    rows = []
    for number, length in enumerate(lengths):
        ids = [chooser.randrange(1, vocab) for _ in range(length)]
        prompt = max(1, length // 10)
        rows.append(TrainRow(f"{seed}-{number}", "pool", ids, [*[IGNORED] * prompt, *ids[prompt:]]))
    return rows
