"""Connects to a Ray cluster, or starts a local one. The only module that calls `ray.init`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from cluster.gpus import gpu_name
from cluster.leftovers import remove_semaphores, remove_session, scratch_folder, semaphores_of
from cluster.limits import usable_cpus
from cluster.nodes import cluster_nodes
from cluster.placement import Resources
from cluster.units import GIB

Device = Literal["cpu", "gpu"]

LOCAL_OBJECT_STORE_BYTES = GIB
"""A local run moves rows of text only; the default (30 % of memory) would take memory from the engines."""

KEEPALIVE_ENV = {"RAY_grpc_client_keepalive_time_ms": "70000", "RAY_grpc_client_keepalive_timeout_ms": "30000"}
"""With these, a driver's call to a host that vanished silently ends after 100 s, and its task is retried. Ray's own
settings took seven minutes (tasks of actors end when Ray declares the node dead). Ray's servers accept no more than one
ping a minute."""


@dataclass(frozen=True)
class Session:
    """The connected cluster and its resources."""

    device: Device
    num_cpus: float
    num_gpus: float
    address: str
    log_dir: str
    gpu_name: str = ""
    """The cluster's kinds of GPU as Ray names them, for example `H100`, separated by commas. Empty: none or unknown."""

    def nodes(self) -> tuple[Resources, ...]:
        """The nodes that are live now, without those that an autoscaler may add."""
        return cluster_nodes()


def resolve_device(
    wanted: Literal["auto", "cpu", "gpu"], num_gpus: float, *, num_cpus: float = 1.0, may_grow: bool = False
) -> Device:
    """The device to use: `auto` takes GPUs where there are any.

    Args:
        wanted: the recipe's device.
        num_gpus: GPUs of the cluster.
        num_cpus: CPUs of the cluster.
        may_grow: nodes may still be added, so `gpu` is allowed while there are none.

    Raises:
        ValueError: `gpu` without GPUs; or `auto` while no node is up to decide by.
    """
    if wanted == "auto" and may_grow and num_gpus < 1 and num_cpus < 1:
        raise ValueError(
            "device = 'auto' cannot be decided while no node of the cluster is up: set device=gpu or device=cpu"
        )
    if wanted == "gpu" and num_gpus < 1 and not may_grow:
        raise ValueError("device = 'gpu', but the Ray cluster has no GPU: use device = 'auto' or add a GPU node")
    return "gpu" if wanted == "gpu" or (wanted == "auto" and num_gpus >= 1) else "cpu"


def is_joined() -> bool:
    """Whether this process joins an existing cluster, which may grow, instead of starting Ray on this machine."""
    return bool(os.environ.get("RAY_ADDRESS"))


def prepare_environment() -> None:
    """Set the variables that Ray reads when it is imported: call this before anything that imports it."""
    if is_joined():
        # For this process only, since Serve's servers accept one ping in five minutes.
        for name, value in KEEPALIVE_ENV.items():
            os.environ.setdefault(name, value)
    # Ray's progress bars and worker output would hide ours; they stay in its log files.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Turn off Ray's usage statistics.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@contextmanager
def connect(wanted: Literal["auto", "cpu", "gpu"] = "auto") -> Iterator[Session]:
    """Join the cluster named by `RAY_ADDRESS` (set inside a Ray job), or start a local one for the time of the block.

    A cluster that already runs on this machine is joined only with `RAY_ADDRESS=auto`. Of a local one nothing stays
    behind but, after an error, its logs.

    Raises:
        ValueError: the cluster lacks the wanted device (`resolve_device`).
    """
    prepare_environment()
    with _joined() if is_joined() else _started() as context:
        import ray

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


@contextmanager
def _joined() -> Iterator[Any]:
    import ray

    try:
        yield ray.init(log_to_driver=False, ignore_reinit_error=True)
    finally:
        ray.shutdown()


@contextmanager
def _started() -> Iterator[Any]:
    import ray

    with scratch_folder():
        context = ray.init(
            address="local",
            log_to_driver=False,
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            num_cpus=max(2, usable_cpus()),
        )
        has_failed = False
        try:
            yield context
        except Exception:
            has_failed = True
            raise
        finally:
            semaphores = semaphores_of(psutil.Process())
            ray.shutdown()
            remove_semaphores(semaphores)
            if not has_failed:
                remove_session(str(context.address_info["session_dir"]))
