"""The engine class for models in storage: they are fetched to the engine's machine before it starts.

Ray's own download supports neither a bucket endpoint set by an environment variable nor several versions under one
address. `VLLMEngine`, its `_engine_config`, `_app_state` and `_oai_serving_tokenization` are private, as of Ray 2.60.0.
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
        llm_config._engine_config = None  # computed from the addresses where the application was built
        super().__init__(llm_config)

    async def start(self) -> None:
        """Start the engine, with its tokenizer within reach: Ray looks for it under the name of an earlier vLLM."""
        await super().start()
        self._oai_serving_tokenization = getattr(self._app_state, "serving_tokenization", None)
