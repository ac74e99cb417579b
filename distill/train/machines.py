"""The nodes that a plan is made for: the connected cluster's, this machine, or ones that are only described."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass

import psutil

from cluster.gpus import GPU_KINDS, GpuKind, gpu_kind
from cluster.nodes import cluster_nodes
from cluster.placement import Resources
from cluster.session import connect, is_joined, resolve_device
from cluster.units import GIB
from cluster.vllm_args import engine_threads
from distill.config.recipe import Recipe
from distill.core.errors import InputError
from distill.train.layout import Device

CUDA_DRIVER = "libcuda.so.1"
CPUS_PER_GPU = 8
"""CPUs of a described node."""


def described_machines(text: str) -> Machines:
    """`2x8xh100`: two nodes with eight H100 each; `2x8x80`: with eight GPUs of 80 GB each, of any kind; `1x4cpu`: one
    node with four CPUs and 4 GiB for each.

    Raises:
        InputError: it is neither.
    """
    found = re.fullmatch(r"(\d+)x(\d+)(?:x([a-z0-9-]+)|cpu)", text.lower())
    if not found or int(found[1]) < 1 or int(found[2]) < 1:
        forms = "NODESxGPUSxKIND, NODESxGPUSxGB or NODESxCPUScpu"
        raise InputError(f"--cluster {text}: not of the form {forms} -> for example 2x8xh100 or 2x8x80")
    count, each, kind_name = int(found[1]), int(found[2]), found[3]
    if kind_name is None:
        return Machines((Resources(cpus=each, memory_gib=4.0 * each),) * count, "cpu")
    node = Resources(cpus=CPUS_PER_GPU * each, gpus=each)
    if kind_name.isdigit():
        # A GPU of 80 GB offers a little less than 80 GiB, and more than 80 * 10^9 bytes.
        return Machines((node,) * count, "gpu", float(kind_name))
    if kind_name not in GPU_KINDS:
        known = ", ".join(GPU_KINDS)
        raise InputError(
            f"--cluster {text}: {kind_name} is not a known kind of GPU -> one of {known}, or its memory in GB"
        )
    kind = GPU_KINDS[kind_name]
    return Machines((node._replace(gpu=kind.ray_name),) * count, "gpu", kind.memory_gib, kind)


def planned_machines(recipe: Recipe, cluster: str) -> Machines:
    """Those of `--cluster`; where it is empty, those that a run started here would use.

    Raises:
        InputError: as of `described_machines` and `machines_here`.
    """
    return described_machines(cluster) if cluster else machines_here(recipe)


def machines_here(recipe: Recipe) -> Machines:
    """The nodes that a run started here would use: those of the cluster in `RAY_ADDRESS`, or this machine.

    Raises:
        InputError: the recipe asks for GPUs and there are none.
    """
    if is_joined():
        with connect(recipe.device) as session:
            return connected_machines(session.device)
    gpus = gpus_here()
    count = len(gpus)
    try:
        device = resolve_device(recipe.device, count)
    except ValueError as error:
        raise InputError(f"{error}, or describe the cluster: distill plan --cluster 1x8x80") from error
    memory = min((memory for memory, _ in gpus), default=0)
    kind = gpu_kind(gpus[0][1]) if device == "gpu" else None
    total = psutil.virtual_memory().total / GIB
    node = Resources(max(2, os.cpu_count() or 2), count, total, kind.ray_name if kind else "")
    return Machines((node,), device, memory / GIB, kind)


def gpus_here() -> list[tuple[int, str]]:
    """(bytes of memory, name) of every GPU of this machine."""
    try:
        ctypes.CDLL(CUDA_DRIVER)
    except OSError:  # without it torch finds none either, and takes seconds to import
        return []
    import torch

    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [(int(one.total_memory), str(one.name)) for one in found]


def connected_machines(device: Device) -> Machines:
    """The nodes of the connected cluster. Memory and kind of the GPUs are those of the first free one."""
    nodes = cluster_nodes()
    if device == "cpu":
        return Machines(nodes, "cpu")
    import ray

    @ray.remote(num_gpus=1, num_cpus=0)
    def first_gpu() -> tuple[int, str]:
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory), torch.cuda.get_device_name(0)

    memory, name = ray.get(first_gpu.remote())
    return Machines(nodes, "gpu", memory / GIB, gpu_kind(name))


@dataclass(frozen=True)
class Machines:
    """The nodes that training runs on."""

    nodes: tuple[Resources, ...]
    device: Device
    gpu_memory_gib: float = 0.0
    """Of one GPU; the smallest where they differ."""
    gpu: GpuKind | None = None
    """Kind of its GPUs; None where it is not known."""

    def engine_threads(self, *, is_served: bool) -> int:
        """Compute threads of a CPU engine on the largest node, of a served one or a teacher's."""
        return engine_threads(max(1, int(max(node.cpus for node in self.nodes))), is_served=is_served)

    def worker_memory_gib(self, num_workers: int) -> float:
        """The most memory that a worker can have, when its cell runs alone."""
        if self.device == "gpu":
            return self.gpu_memory_gib
        on_one_node = -(-num_workers // max(1, len(self.nodes)))
        return max((node.memory_gib for node in self.nodes), default=0.0) / on_one_node
