"""Peak FLOPs and memory of a training worker's device, and the compiler that CPU workers share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from cluster.gpus import gpu_kind
from cluster.units import GIB

if TYPE_CHECKING:
    from distill.train.layout import Device


def named_peak(name: str) -> float | None:
    """Peak FLOPs per second of a GPU by its name; None where it is not known."""
    kind = gpu_kind(name)
    return kind.flops if kind else None


def peak_flops(device: Device, num_workers: int) -> float | None:
    """Peak FLOPs per second of all workers of a cell; None on a CPU, whose peak is not known."""
    if device == "cpu":
        return None
    import torch

    peak = named_peak(torch.cuda.get_device_name())
    return peak * num_workers if peak else None


def mfu(flops: float | None, seconds: float, peak: float | None) -> float | None:
    """Model FLOPs utilisation (Chowdhery et al. 2022): useful FLOPs per second over the peak."""
    return round(flops / seconds / peak, 4) if flops and peak else None


def memory_gib(device: Device) -> float:
    """Memory of this worker now (CPU: resident) or at most so far (GPU: allocated), GiB."""
    if device == "cpu":
        return float(round(psutil.Process().memory_info().rss / GIB, 2))
    import torch

    return float(round(torch.cuda.max_memory_allocated() / GIB, 2))


def wait_for_compiler(cache: Path, *, stale_after_s: float = 300.0) -> None:
    """Wait until no other worker compiles DeepSpeed's CPU communication.

    torch guards a compilation by a lock file, which stays if the worker is killed meanwhile; every later worker would
    then wait for ever. A file that is older than a compilation can take is stale, and is removed.
    """
    for lock in cache.glob("**/deepspeed_shm_comm/lock"):
        while (age := _age_s(lock)) is not None:
            if age > stale_after_s:
                lock.unlink(missing_ok=True)
            time.sleep(min(0.5, stale_after_s))


def _age_s(path: Path) -> float | None:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
