"""Roofline model of an engine's throughput. Pure.

A step of decoding reads all weights once and the keys and values of every sequence in the batch; it computes two FLOPs
per weight and sequence. The slower of the two is the step's time. The batch is as large as the memory beside the
weights, the engine's own limit and the open requests allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cluster.gpus import GpuKind
from cluster.units import GIB
from distill.config.forecast import ForecastConfig
from distill.models.shape import ModelShape
from distill.train.machines import Machines

BYTES = 2
"""Bytes of a weight, and of a key or value: bf16."""
USED_MEMORY = 0.92
"""Share of a GPU's memory that vLLM takes by default."""
RESERVED_GIB = 2.0
"""Part of it, per GPU, for activations, CUDA graphs and communication."""
CPU_SEQUENCES = 64
"""`max_num_seqs` of our engines on CPU (`cluster.vllm_args`)."""
TEACHER_SEQUENCES = 128
"""vLLM's `max_num_seqs` for an engine that is no API server, which is how ray.data.llm starts it."""
SERVED_SEQUENCES = {"cpu": CPU_SEQUENCES, "gpu": 1024}
"""vLLM's `max_num_seqs` for an API server, and for offline answers, on a GPU of 70 GB or more; 256 for a server on
smaller ones, more than is requested."""
UNKNOWN_CPU = GpuKind("cpu", 0.0, 1e9, float("inf"))
"""A CPU thread of nominal 10^9 FLOPs per second; its real rate is measured (`distill.ops.forecast.calibration`)."""


def device_kind(machines: Machines) -> GpuKind:
    """The kind of device that is computed on. Only where it is known: a CPU, or a named kind of GPU."""
    kind = UNKNOWN_CPU if machines.device == "cpu" else machines.gpu
    assert kind is not None, "only called where the kind is known"
    return kind


@dataclass(frozen=True)
class EngineSize:
    """One engine: its model and the devices that share it."""

    shape: ModelShape
    num_devices: int = 1
    max_sequences: int = TEACHER_SEQUENCES

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights, over all devices."""
        return float(BYTES * self.shape.num_parameters)

    @property
    def token_bytes(self) -> float:
        """Bytes of the keys and values of one token."""
        return float(2 * BYTES * self.shape.layers * self.shape.kv_width)

    def room_tokens(self, kind: GpuKind) -> float:
        """Tokens whose keys and values fit beside the weights; not positive where the weights do not fit."""
        if kind is UNKNOWN_CPU:
            return float("inf")  # set by the recipe, and small beside the machine's memory
        usable = self.num_devices * (USED_MEMORY * kind.memory_gib - RESERVED_GIB) * GIB
        return (usable - self.weight_bytes) / self.token_bytes


class Rate(NamedTuple):
    """Throughput of one engine."""

    tokens_per_s: float
    """Decoding with a full batch."""
    batch: float
    prefill_per_s: float
    """Prompt tokens."""
    step_s: float
    """One step with a batch of one: how fast a single sequence can be."""
    bound: str
    """The slower part of a step: `memory bandwidth` or `computation`."""
    limit: str
    """What bounds the batch: `memory for keys and values`, `sequences per engine` or `open requests`."""


def engine_rate(
    size: EngineSize, kind: GpuKind, assumed: ForecastConfig, *, context_tokens: float, requests: float
) -> Rate:
    """The rate of one engine.

    Args:
        size: the engine.
        kind: kind of its devices.
        assumed: utilisations.
        context_tokens: mean tokens of a running sequence, with its prompt.
        requests: open at a time for this engine.
    """
    by_memory = size.room_tokens(kind) / max(1.0, context_tokens)
    limits = {
        "memory for keys and values": by_memory,
        "sequences per engine": float(size.max_sequences),
        "open requests": requests,
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
    """FLOPs of one token's forward pass: two per weight, and attention over the tokens before it."""
    weights = shape.body_parameters + shape.head_parameters
    return float(2 * weights + 4 * shape.layers * shape.query_width * context_tokens)
