"""The only place that connects to Ray."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from cluster.gpus import gpu_name
from cluster.nodes import cluster_nodes
from cluster.placement import Resources

Device = Literal["cpu", "gpu"]

LOCAL_OBJECT_STORE_BYTES = 1 << 30
"""A laptop run moves rows of text; the default (30 % of memory) would take it from the engines."""

SOON_LOST = {"RAY_grpc_client_keepalive_time_ms": "70000", "RAY_grpc_client_keepalive_timeout_ms": "30000"}
"""A driver's call to a host that has vanished without a word ends after 100 s by these, and its task is put again.
Ray's own settings took seven minutes (actors' tasks end when Ray gives the host up). Ray's servers take a ping a
minute, no more."""


@dataclass(frozen=True)
class Session:
    """What the connected cluster offers."""

    device: Device
    num_cpus: float
    num_gpus: float
    address: str
    log_dir: str
    gpu_name: str = ""
    """What Ray calls the cluster's GPUs, for example `H100`; several kinds with a comma. Empty: none, or not known."""

    def nodes(self) -> tuple[Resources, ...]:
        """The live nodes now; groups that scale up later are not among them."""
        return cluster_nodes()


def resolve_device(
    wanted: Literal["auto", "cpu", "gpu"], num_gpus: float, *, num_cpus: float = 1.0, may_grow: bool = False
) -> Device:
    """The device to use: `auto` takes GPUs where there are any.

    `may_grow`: machines may still be added, so that GPUs are waited for where the recipe asks for them.

    Raises:
        ValueError: GPUs are asked for and there are none; or `auto`, and no machine is up yet to tell by.
    """
    if wanted == "auto" and may_grow and num_gpus < 1 and num_cpus < 1:
        raise ValueError(
            "device = 'auto', but no machine of the cluster is up yet to tell by: set device=gpu or device=cpu"
        )
    if wanted == "gpu" and num_gpus < 1 and not may_grow:
        raise ValueError("device = 'gpu', but the Ray cluster has no GPU: use device = 'auto' or add a GPU node")
    return "gpu" if wanted == "gpu" or (wanted == "auto" and num_gpus >= 1) else "cpu"


def is_joined() -> bool:
    """Whether the cluster is somebody's, which may grow, or will be: not a Ray that this run starts on its machine."""
    return bool(os.environ.get("RAY_ADDRESS"))


@contextmanager
def connect(wanted: Literal["auto", "cpu", "gpu"] = "auto") -> Iterator[Session]:
    """Join the cluster named by `RAY_ADDRESS` (set inside a Ray job) or start a local one for the time of the block.

    A cluster that somebody runs on this machine is joined where `RAY_ADDRESS=auto` says so, not because it is there.

    Raises:
        ValueError: GPUs are asked for and the cluster has none.
    """
    if is_joined():
        # Of this process only, whose Ray reads it when it is imported: Serve's servers take a ping in five minutes.
        for name, value in SOON_LOST.items():
            os.environ.setdefault(name, value)
    import ray

    # Ray's own bars and worker output would bury ours; they stay in its log files.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # A run is dead-lettered by its own code, so Ray need not be told twice how it is used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if is_joined():
        context = ray.init(log_to_driver=False, ignore_reinit_error=True)
    else:
        context = ray.init(
            address="local",
            log_to_driver=False,
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            num_cpus=max(2, os.cpu_count() or 2),
        )
    try:
        resources = ray.cluster_resources()
        num_cpus, num_gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        yield Session(
            device=resolve_device(wanted, num_gpus, num_cpus=num_cpus, may_grow=is_joined()),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            address=str(context.address_info["address"]),
            log_dir=os.path.join(str(context.address_info["session_dir"]), "logs"),
            gpu_name=gpu_name(resources) if num_gpus else "",
        )
    finally:
        ray.shutdown()
