"""vLLM engine arguments per device: the one place for what a CPU engine needs and a GPU engine does not."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.gpus import of_kind
from cluster.session import Device
from cluster.storage import is_address


def engine_arguments(
    device: Device, *, max_model_len: int, max_num_seqs: int = 64, kv_cache_gb: float, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of a vLLM engine; `extra` is passed through and wins.

    Args:
        device: what the engine runs on.
        max_model_len: prompt plus completion, tokens.
        max_num_seqs: sequences computed at the same time; CPU only, a GPU engine chooses its own.
        kv_cache_gb: memory for keys and values, GiB; CPU only, a GPU engine takes what is free.
        extra: vLLM arguments as the recipe gives them.
    """
    arguments: dict[str, Any] = {"max_model_len": max_model_len}
    if device == "cpu":
        arguments |= {
            "dtype": "bfloat16",
            "max_num_seqs": max_num_seqs,
            # Compilation costs a small model more than it gives.
            "enforce_eager": True,
            "kv_cache_memory_bytes": int(kv_cache_gb * 2**30),
            # A seeded request kills vLLM on CPU once its prompt is prefilled in chunks ("CPU Generator does not use
            # offset"): take every prompt whole.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(max_model_len, 1024),
        }
    return arguments | dict(extra)


def engine_environment(device: Device, model: str, cpu_threads: int | None = None) -> dict[str, str]:
    """Environment of an engine's processes. `cpu_threads`: compute threads on a CPU; none means all cores but one."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if Path(model).is_dir() or is_address(model):
        variables["HF_HUB_OFFLINE"] = "1"  # a hub that cannot be reached costs minutes of time-outs
    if device == "cpu":
        variables["OMP_NUM_THREADS"] = str(cpu_threads or max(1, (os.cpu_count() or 2) - 1))
    return variables


def lone_worker_environment(device: Device, num_workers: int) -> dict[str, str]:
    """What keeps the model of a CPU engine of one worker inside the engine's core process.

    vLLM gives it a process of its own, so that its threads can be bound to cores, and the core process then spins on
    the queue between the two: a whole core lost, and one more start. This variable is how vLLM is told; an engine
    behind an asynchronous client has its core in a process of its own all the same.
    """
    return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if device == "cpu" and num_workers == 1 else {}


def engine_bundles(
    device: Device, num_workers: int = 1, *, num_cpus: float = 1.0, num_gpus: float = 1.0, gpu: str = ""
) -> dict[str, Any]:
    """Placement of one engine: a bundle per worker, as ray.data.llm and ray.serve.llm take it. `gpu`: its kind."""
    bundle = {"CPU": num_cpus} | ({"GPU": num_gpus} | of_kind(gpu) if device == "gpu" else {})
    return {"bundles": [bundle] * num_workers, "strategy": "PACK"}


def parallel_arguments(tensor_parallel: int, pipeline_parallel: int) -> dict[str, Any]:
    """vLLM's names for an engine that spans several GPUs; empty for one."""
    sizes = {"tensor_parallel_size": tensor_parallel, "pipeline_parallel_size": pipeline_parallel}
    return {name: size for name, size in sizes.items() if size > 1}
