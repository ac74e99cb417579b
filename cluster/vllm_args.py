"""vLLM engine arguments, environment variables and placement per device."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.cpus import has_fast_bf16
from cluster.gpus import gpu_kind_request
from cluster.leftovers import scratch_env
from cluster.limits import usable_cpus
from cluster.session import Device
from cluster.storage import is_uri
from cluster.units import GIB

CPU_BLOCK_SIZE = 32
"""Tokens of a block of the key-value cache on CPU. vLLM's own 128 leave the end of a prompt that all requests share,
up to 127 tokens of worked examples, to be computed for each of them; its kernels need a multiple of 32."""


LARGE_BYTES = 600_000_000
"""Weights from which computing outweighs all else that a served engine needs a core for: 0.3 billion in bf16."""


def engine_arguments(
    device: Device, *, max_model_len: int, max_num_seqs: int = 64, kv_cache_gib: float, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of a vLLM engine.

    Args:
        device: what the engine runs on.
        max_model_len: prompt plus completion, tokens.
        max_num_seqs: most sequences computed at the same time; CPU only, a GPU engine decides itself.
        kv_cache_gib: memory for the key-value cache, GiB; CPU only, a GPU engine takes what is free.
        extra: further vLLM arguments, which take precedence.
    """
    arguments: dict[str, Any] = {"max_model_len": max_model_len}
    if device == "cpu":
        arguments |= {
            # Half the memory to read per token, unless every product must be widened first.
            "dtype": "bfloat16" if has_fast_bf16() else "float32",
            "max_num_seqs": max_num_seqs,
            # Compilation costs a small model more than it saves.
            "enforce_eager": True,
            "block_size": CPU_BLOCK_SIZE,
            "kv_cache_memory_bytes": int(kv_cache_gib * GIB),
            # A seeded request kills vLLM on CPU once its prompt is prefilled in chunks ("CPU Generator does not use
            # offset"), so every prompt is prefilled at once.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(max_model_len, 1024),
        }
    return arguments | dict(extra)


def engine_env(device: Device, model: str, cpu_threads: int | None = None) -> dict[str, str]:
    """Environment variables of an engine's processes. `cpu_threads`: compute threads on CPU; None: a teacher's."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if Path(model).is_dir() or is_uri(model):
        variables["HF_HUB_OFFLINE"] = "1"  # an unreachable hub costs minutes of time-outs
    variables |= scratch_env(os.environ)
    if device == "cpu":
        variables["OMP_NUM_THREADS"] = str(cpu_threads or engine_threads(usable_cpus()))
    return variables


def engine_threads(cores: int, *, is_served: bool = False, served_bytes: int = 0) -> int:
    """Compute threads of an engine on CPU: all cores but one for everything else; a teacher has both of two cores.

    All threads wait for the slowest, so one that shares its core with another process holds all of them up. On two
    cores a teacher's second thread is worth more than that. A served engine's is not, unless its model is large: the
    processes that take the requests and bring them to the engine need a core (docs/benchmarks/evaluation.md).

    `served_bytes`: of the weights of a served model.
    """
    needs_a_core_beside = is_served and served_bytes < LARGE_BYTES
    return max(1, cores - 1) if needs_a_core_beside or cores > 2 else cores


def weight_bytes(source: str) -> int:
    """Bytes of the weights in a local folder; 0 for what lies elsewhere."""
    return sum(file.stat().st_size for file in Path(source).glob("*.safetensors")) if not is_uri(source) else 0


def served_threads(source: str) -> int:
    """Compute threads of a served engine on this machine. `source`: of its weights."""
    return engine_threads(usable_cpus(), is_served=True, served_bytes=weight_bytes(source))


def single_worker_env(device: Device, num_workers: int) -> dict[str, str]:
    """Environment variables that run the model of a CPU engine with one worker inside the engine core process.

    By default the worker is a process of its own, so that its threads can be bound to cores; the core process then
    busy-waits on the queue between the two, which costs a whole core, and one more process must start. An engine
    behind an asynchronous client still has its core in a process of its own.
    """
    return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if device == "cpu" and num_workers == 1 else {}


def engine_bundles(
    device: Device, num_workers: int = 1, *, num_cpus: float = 1.0, num_gpus: float = 1.0, gpu: str = ""
) -> dict[str, Any]:
    """Placement group of one engine, a bundle per worker, for ray.data.llm and ray.serve.llm. `gpu`: kind of GPU."""
    bundle = {"CPU": num_cpus} | ({"GPU": num_gpus} | gpu_kind_request(gpu) if device == "gpu" else {})
    return {"bundles": [bundle] * num_workers, "strategy": "PACK"}


def parallel_arguments(tensor_parallel: int, pipeline_parallel: int) -> dict[str, Any]:
    """vLLM's arguments for an engine that spans several GPUs; empty for one."""
    sizes = {"tensor_parallel_size": tensor_parallel, "pipeline_parallel_size": pipeline_parallel}
    return {name: size for name, size in sizes.items() if size > 1}
