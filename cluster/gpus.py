"""Kinds of GPU: memory, speed and price per hour, as defaults for forecasts.

Dense bf16 FLOPs (a multiply-add counts as two) and memory bandwidth are those of NVIDIA's data sheets, written without
them at hand: on 2026-11-28 the FLOPs of all kinds and the bandwidths of B200, H200, H100, A100 were compared with
tables of public projects, and agreed; the other bandwidths were not checked. Memory is what the device reports, a
little less than its nominal size.

Prices are public on-demand list prices per GPU and hour without commitment, each with its provider and the day it was
read. They were read in transcriptions of the providers' pages on GitHub (api-evangelist/lambda-labs and nexgen-cloud,
datareceipts/data-receipts), not on the pages. They change every few weeks and differ between providers by a factor of
two to four: `forecast.usd_per_gpu_hour` of a recipe overrides them.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import Field

GpuName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]*$", max_length=40)]
"""A kind of GPU as Ray names it: `H100`, `A100-80G`, `L4`. Empty: any."""


class GpuKind(NamedTuple):
    """One kind of GPU."""

    name: str
    """Name after the number of GPUs in a cluster description: `2x8xh100`."""
    memory_gib: float
    flops: float
    """Dense bf16 FLOPs per second."""
    bandwidth: float
    """Memory bandwidth, bytes per second."""
    usd_per_hour: float | None = None
    """List price. None: no price was found that can be cited."""
    price_source: str = ""

    @property
    def ray_name(self) -> str:
        """The name that Ray detects, without memory size and form factor: `H100`, `A100`."""
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

NAME_PARTS = (
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
"""Part of the name that CUDA or Ray gives a GPU -> its kind. The first match counts."""


def gpu_kind(name: str) -> GpuKind | None:
    """The kind of a GPU by its name; None for an unknown one."""
    return next((GPU_KINDS[kind] for part, kind in NAME_PARTS if part in name), None)


ACCELERATOR_PREFIX = "accelerator_type:"
"""Prefix of the resource by which a Ray node declares its kind of GPU (`accelerator_type:H100`). A node has 1 of it."""


def gpu_name(resources: Mapping[str, float]) -> str:
    """The kinds of GPU among the resources of a node or of a cluster."""
    found = (name.removeprefix(ACCELERATOR_PREFIX) for name in resources if name.startswith(ACCELERATOR_PREFIX))
    return ", ".join(sorted(found))


def gpu_kind_request(gpu: str) -> dict[str, float]:
    """The resource that a worker requests beside its GPU to get that kind; empty where any kind will do."""
    return {f"{ACCELERATOR_PREFIX}{gpu}": 0.001} if gpu else {}
