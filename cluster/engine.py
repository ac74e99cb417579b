"""vLLM engine arguments per device: the one place for what a CPU engine needs and a GPU engine does not."""

from collections.abc import Mapping
from typing import Any

from cluster.session import Device


def engine_arguments(
    device: Device,
    *,
    max_model_len: int,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments of a vLLM engine; `extra` is passed through and wins.

    Args:
        device: what the engine runs on.
        max_model_len: prompt plus completion, tokens.
        tensor_parallel: GPUs that share one copy of the weights.
        pipeline_parallel: GPU groups that hold consecutive layers.
        extra: vLLM arguments as the recipe gives them.
    """
    arguments: dict[str, Any] = {"max_model_len": max_model_len, "dtype": "bfloat16"}
    if tensor_parallel * pipeline_parallel > 1:
        arguments |= {"tensor_parallel_size": tensor_parallel, "pipeline_parallel_size": pipeline_parallel}
    if device == "cpu":
        # A seeded request whose prompt is prefilled in chunks kills the CPU engine of vLLM 0.29 ("CPU Generator does
        # not use offset"), so a prompt must fit one batch. Compilation costs a small model more than it gives.
        arguments |= {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(max_model_len, 2048),
            "max_num_seqs": 64,
        }
    return arguments | dict(extra)


def engine_environment(device: Device, kv_cache_gb: float) -> dict[str, str]:
    """Environment of an engine's process."""
    quiet = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return quiet | ({"VLLM_CPU_KVCACHE_SPACE": f"{kv_cache_gb:g}"} if device == "cpu" else {})


def engine_bundles(device: Device, num_workers: int = 1, num_cpus: float = 1.0) -> dict[str, Any]:
    """Placement of one engine: a bundle per worker, as ray.data.llm and ray.serve.llm take it."""
    bundle = {"CPU": num_cpus} | ({"GPU": 1.0} if device == "gpu" else {})
    return {"bundles": [bundle] * num_workers, "strategy": "PACK"}
