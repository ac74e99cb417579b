"""Kinds of GPU: what they can do and what an hour of one costs, as defaults for plans.

Dense bf16 multiply-adds per second (each counted as two) and memory bandwidth are those of NVIDIA's data sheets, which
were not at hand: on 2026-11-28 the FLOPs of all kinds and the bandwidths of B200, H200, H100, A100 were compared with
tables that public projects keep, and agreed; the other bandwidths are from memory. Memory is what the device reports, a
little less than its name says.

Prices are public on-demand list prices per GPU and hour without commitment, each with who asks it and the day it was
read. They were read in transcriptions of the providers' pages on GitHub (api-evangelist/lambda-labs and nexgen-cloud,
datareceipts/data-receipts), not on the pages. They change every few weeks and differ between providers by a factor of
two to four: `forecast.usd_per_gpu_hour` of a recipe sets your own.
"""

from collections.abc import Mapping
from typing import NamedTuple


class GpuKind(NamedTuple):
    """One kind of GPU."""

    name: str
    """As it is written after the number of GPUs: `2x8xh100`."""
    memory_gib: float
    flops: float
    """bf16, per second, dense."""
    bandwidth: float
    """Bytes of memory per second."""
    usd_per_hour: float | None = None
    """List price. None: none was found that can be cited."""
    price_source: str = ""

    @property
    def ray_name(self) -> str:
        """What Ray calls it by itself, whatever its memory and slot: `H100`, `A100`."""
        return self.name.partition("-")[0].upper()


LAMBDA = "Lambda, 8 GPUs, lambda.ai/instances, read 2026-09-20"
HYPERSTACK = "Hyperstack, hyperstack.cloud/gpu-pricing, read 2026-08-26"
RUNPOD = "RunPod Secure Cloud, runpod.io/pricing, read 2026-11-09"

GPU_KINDS = {
    kind.name: kind
    for kind in (
        GpuKind("b200", 178.0, 2250e12, 8.0e12, 6.69, LAMBDA),
        GpuKind("h200", 139.0, 989e12, 4.8e12, 3.99, HYPERSTACK),
        GpuKind("h100", 79.0, 989e12, 3.35e12, 3.99, LAMBDA),
        GpuKind("h100-pcie", 79.0, 756e12, 2.0e12, 2.89, RUNPOD),
        GpuKind("a100", 79.0, 312e12, 2.039e12, 2.79, LAMBDA),
        GpuKind("a100-40", 39.0, 312e12, 1.555e12, 1.99, LAMBDA),
        GpuKind("l40s", 44.0, 362e12, 0.864e12),
        GpuKind("l40", 44.0, 181e12, 0.864e12),
        GpuKind("l4", 22.0, 121e12, 0.3e12),
    )
}

PARTS = (
    ("H100 PCIe", "h100-pcie"),
    ("H100", "h100"),
    ("H200", "h200"),
    ("B200", "b200"),
    ("A100-40G", "a100-40"),
    ("A100-SXM4-40G", "a100-40"),
    ("A100-PCIE-40G", "a100-40"),
    ("A100", "a100"),
    ("L40S", "l40s"),
    ("L40", "l40"),
    ("L4", "l4"),
)
"""Part of the name that CUDA or Ray gives a GPU -> its kind. The first that is found counts."""


def gpu_kind(name: str) -> GpuKind | None:
    """The kind of a GPU by its name; None where it is not known."""
    return next((GPU_KINDS[kind] for part, kind in PARTS if part in name), None)


KIND = "accelerator_type:"
"""How Ray calls the resource by which a node says what its GPUs are: this, and `H100`. A node has 1 of it."""


def gpu_name(resources: Mapping[str, float]) -> str:
    """The kinds of GPU among the resources of a node or of a cluster."""
    return ", ".join(sorted(name.removeprefix(KIND) for name in resources if name.startswith(KIND)))


def of_kind(gpu: str) -> dict[str, float]:
    """What a worker asks for beside its GPU where it must be of a kind; nothing where any will do."""
    return {f"{KIND}{gpu}": 0.001} if gpu else {}
