"""The engine class for models that lie in storage: fetched to the engine's machine before it starts.

Ray's own download knows neither a bucket's address by variable nor versions of one place.
"""

from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

from cluster.storage import local_folder


class StoredEngine(VLLMEngine):
    """vLLM as Ray serves it, from folders of this machine."""

    def __init__(self, llm_config: Any) -> None:
        loading = llm_config.model_loading_config
        loading.model_source = local_folder(loading.model_source)
        for adapter in llm_config.engine_kwargs.get("lora_modules", ()):
            adapter.path = local_folder(adapter.path)
        llm_config._engine_config = None  # was made from the addresses, where the application was built
        super().__init__(llm_config)
