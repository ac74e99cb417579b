"""The engine class for CPU: what a machine without a GPU needs from Ray's vLLM wrapper.

Ray starts four processes per engine (replica, download task, engine core, worker), and each imports vLLM for 10-15 s
of CPU time. A local model of one process needs two of them. The overridden methods are private, as of Ray 2.60.0.
"""

from pathlib import Path
from typing import Any

from serve.engines.stored_engine import StoredEngine


class CpuEngine(StoredEngine):
    """vLLM on CPU whose model runs inside the engine core process. One process only: no tensor parallelism."""

    async def start(self) -> None:
        """Start the engine; a model that is already a folder needs no task to download it."""
        engine_config = self.llm_config.get_engine_config()
        if Path(engine_config.actual_hf_model_id).is_dir():
            self.llm_config.get_or_create_callback().ctx.run_init_node = False
        await super().start()

    def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
        # Ray requires the "mp" executor on CPU, and so does vLLM, which binds its workers' threads to cores. Here an
        # environment variable sets the thread count of the one process, unbound: engines that share a machine must not
        # all be pinned to the same cores.
        vllm_engine_config.parallel_config.distributed_executor_backend = "uni"
        return super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)
