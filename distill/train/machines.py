"""The nodes that a plan is made for: the connected cluster's, this machine, or ones that are only described."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.gpus import GPU_KINDS, GpuKind, gpu_kind, gpu_kind_request
from cluster.limits import usable_cpus, usable_memory_bytes
from cluster.nodes import cluster_nodes
from cluster.placement import Resources
from cluster.session import connect, is_joined, resolve_device
from cluster.units import GIB
from cluster.vllm_args import engine_threads
from distill.config.recipe import Recipe
from distill.config.teachers import VllmTeacher
from distill.core.errors import InputError
from distill.train.layout import Device

CUDA_DRIVER = "libcuda.so.1"
PROBE_TIMEOUT_S = 300
"""Longest wait for a free GPU that is asked for its memory; importing torch on a cold node takes most of a minute."""
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
        InputError: the recipe asks for GPUs and there are none, or none answers.
    """
    if is_joined():
        with connect(recipe.device) as session:
            return connected_machines(session.device, _asked_kinds(recipe))
    gpus = gpus_here()
    count = len(gpus)
    try:
        device = resolve_device(recipe.device, count)
    except ValueError as error:
        raise InputError(f"{error}, or describe the cluster: distill plan --cluster 1x8x80") from error
    memory = min((memory for memory, _ in gpus), default=0)
    kind = gpu_kind(gpus[0][1]) if device == "gpu" else None
    total = usable_memory_bytes() / GIB
    node = Resources(max(2, usable_cpus()), count, total, kind.ray_name if kind else "")
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


def _asked_kinds(recipe: Recipe) -> set[str]:
    """The kinds of GPU that students, teachers and endpoints ask for; empty: any."""
    teachers = {teacher.gpu for teacher in recipe.teachers if isinstance(teacher, VllmTeacher)}
    return teachers | {student.gpu for student in recipe.students} | {recipe.serve.gpu}


def connected_machines(device: Device, kinds: Collection[str]) -> Machines:
    """The nodes of the connected cluster, with the memory of the GPUs that will be used.

    Args:
        device: what is computed on.
        kinds: of GPU that are asked for, as Ray names them; an empty name stands for all that there are.

    Raises:
        InputError: no node with a GPU is up, or no GPU of a kind could be asked within `PROBE_TIMEOUT_S`.
    """
    nodes = cluster_nodes()
    if device == "cpu":
        return Machines(nodes, "cpu")
    found = _probe_gpus(probed_kinds(nodes, kinds))
    memory, name = min(found.values())
    by_kind = {kind: bytes_ / GIB for kind, (bytes_, _) in found.items()}
    return Machines(nodes, "gpu", memory / GIB, gpu_kind(name), by_kind)


def probed_kinds(nodes: Sequence[Resources], kinds: Collection[str]) -> list[str]:
    """The kinds of GPU whose memory is asked for: those of `kinds` that are up, or all that are. One that is not up is
    refused where it is placed.

    Raises:
        InputError: no node has a GPU.
    """
    live = {kind for node in nodes if node.gpus for kind in node.gpu.split(", ")}
    if not live:
        has = ", ".join(map(str, nodes)) or "no nodes"
        raise InputError(
            f"device = gpu, and no node with a GPU is up ({has}) -> start one (ray status lists what is up), or "
            "describe the cluster: distill plan --cluster 1x8x80"
        )
    asked = live & set(kinds)
    return sorted(live if "" in kinds or not asked else asked)


def _probe_gpus(kinds: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Kind -> (bytes of memory, CUDA's name) of one of its GPUs, asked on a node that has it."""
    import ray

    @ray.remote(num_gpus=1, num_cpus=0)
    def first_gpu() -> tuple[int, str]:
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory), torch.cuda.get_device_name(0)

    asked = {kind: first_gpu.options(resources=gpu_kind_request(kind)).remote() for kind in kinds}
    try:
        return dict(zip(asked, ray.get(list(asked.values()), timeout=PROBE_TIMEOUT_S), strict=True))
    except ray.exceptions.GetTimeoutError as error:
        for task in asked.values():
            ray.cancel(task)
        names = ", ".join(kind or "any kind" for kind in kinds)
        raise InputError(
            f"no GPU ({names}) was free within {PROBE_TIMEOUT_S} s to ask for its memory -> see with ray status what "
            "holds them, and end it or wait for it"
        ) from error


@dataclass(frozen=True)
class Machines:
    """The nodes that training runs on."""

    nodes: tuple[Resources, ...]
    device: Device
    gpu_memory_gib: float = 0.0
    """Of one GPU; the smallest where they differ."""
    gpu: GpuKind | None = None
    """Kind of its GPUs; None where it is not known. Where they differ, that of the smallest."""
    memory_by_kind: Mapping[str, float] = field(default_factory=dict)
    """Kind, as Ray names it -> GiB of one such GPU; empty where they are all alike."""

    def engine_threads(self, *, is_served: bool) -> int:
        """Compute threads of a CPU engine on the largest node, of a served one or a teacher's."""
        return engine_threads(max(1, int(max(node.cpus for node in self.nodes))), is_served=is_served)

    def memory_of(self, gpu: str) -> float:
        """GiB of a GPU of this kind; of the smallest, where any kind will do."""
        return self.memory_by_kind.get(gpu, self.gpu_memory_gib) if gpu else self.gpu_memory_gib

    def worker_memory_gib(self, num_workers: int, gpu: str = "") -> float:
        """The most memory that a worker can have, when its cell runs alone; `gpu`: the kind that it needs."""
        if self.device == "gpu":
            return self.memory_of(gpu)
        on_one_node = -(-num_workers // max(1, len(self.nodes)))
        return max((node.memory_gib for node in self.nodes), default=0.0) / on_one_node
