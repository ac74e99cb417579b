"""How fast an engine writes: a roofline. Pure.

A step of decoding reads all weights once and the keys and values of every sequence in the batch; it computes two FLOPs
per weight and sequence. Whichever takes longer is the step. The batch is as large as the memory that is left beside the
weights, the engine's own limit and the requests at hand allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cluster.gpus import GpuKind
from distill.config.forecast import ForecastConfig
from distill.models.shape import ModelShape

GIB = 2**30
BYTES = 2
"""Of a weight, and of a key or value: bf16."""
USED_MEMORY = 0.92
"""Share of a GPU's memory that vLLM takes by default."""
OWN_GIB = 2.0
"""Of it per GPU for activations, CUDA graphs and communication."""
CPU_SEQUENCES = 64
"""What our engines on CPU are told (`cluster.vllm_args`)."""
TEACHER_SEQUENCES = 128
"""vLLM's `max_num_seqs` for an engine that is no API server, which is how ray.data.llm starts it."""
UNKNOWN_CPU = GpuKind("cpu", 0.0, 1e9, float("inf"))
"""A CPU thread of nominal 10^9 FLOPs per second; its real rate is measured (`distill.ops.forecast.calibration`)."""


@dataclass(frozen=True)
class EngineSize:
    """One engine: its model and the devices that share it."""

    shape: ModelShape
    num_devices: int = 1
    max_sequences: int = TEACHER_SEQUENCES

    @property
    def weight_bytes(self) -> float:
        """Of all devices together."""
        return float(BYTES * self.shape.num_parameters)

    @property
    def token_bytes(self) -> float:
        """Keys and values of one token."""
        return float(2 * BYTES * self.shape.layers * self.shape.kv_width)

    def room_tokens(self, kind: GpuKind) -> float:
        """Tokens whose keys and values fit beside the weights; not positive where the weights do not fit."""
        if kind is UNKNOWN_CPU:
            return float("inf")  # told by the recipe and small beside the machine's memory
        usable = self.num_devices * (USED_MEMORY * kind.memory_gib - OWN_GIB) * GIB
        return (usable - self.weight_bytes) / self.token_bytes


class Rate(NamedTuple):
    """What one engine does."""

    tokens_per_s: float
    """Decoding, a full batch."""
    batch: float
    prefill_per_s: float
    """Prompt tokens."""
    step_s: float
    """One step with a batch of one: how fast a single sequence can be."""
    bound: str
    """What a step waits for: `memory bandwidth` or `computation`."""
    limit: str
    """What keeps the batch from being larger: `memory for keys and values`, `sequences per engine` or `requests at
    hand`."""


def engine_rate(
    size: EngineSize, kind: GpuKind, assumed: ForecastConfig, *, context_tokens: float, requests: float
) -> Rate:
    """The rate of one engine.

    Args:
        size: the engine.
        kind: of its devices.
        assumed: utilisations.
        context_tokens: mean tokens of a sequence in work, prompt included.
        requests: that are open for this engine at a time.
    """
    by_memory = size.room_tokens(kind) / max(1.0, context_tokens)
    limits = {
        "memory for keys and values": by_memory,
        "sequences per engine": float(size.max_sequences),
        "requests at hand": requests,
    }
    limit = min(limits, key=lambda name: limits[name])
    batch = max(1.0, limits[limit])
    compute = size.num_devices * kind.flops * assumed.prefill_flops

    def step(sequences: float) -> tuple[float, float]:
        read = size.weight_bytes + sequences * context_tokens * size.token_bytes
        return (
            read / (size.num_devices * kind.bandwidth * assumed.decode_bandwidth),
            sequences * token_flops(size.shape, context_tokens) / compute,
        )

    reading, computing = step(batch)
    return Rate(
        tokens_per_s=batch / (max(reading, computing) + assumed.step_overhead_s),
        batch=batch,
        prefill_per_s=compute / token_flops(size.shape, context_tokens / 2),
        step_s=max(step(1.0)) + assumed.step_overhead_s,
        bound="computation" if computing >= reading else "memory bandwidth",
        limit=limit,
    )


def token_flops(shape: ModelShape, context_tokens: float) -> float:
    """FLOPs of one token forward: two per weight, and attention over what is before it."""
    weights = shape.body_parameters + shape.head_parameters
    return float(2 * weights + 4 * shape.layers * shape.query_width * context_tokens)
