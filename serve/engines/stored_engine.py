"""The engine class for models in storage: they are fetched to the engine's machine before it starts.

Ray's own download supports neither a bucket endpoint set by an environment variable nor several versions under one
address. An engine that several models of the same shapes share exchanges its weights, which takes a second where a
start takes a minute. `VLLMEngine` and its `_engine_client`, `_engine_config`, `_app_state`, `_oai_models` and
`_oai_serving_tokenization` are private, as of Ray 2.60.0.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from vllm.entrypoints.openai.models.protocol import BaseModelPath

from cluster.storage import local_folder
from serve.engines.turns import Turns

WEIGHTS_IN_TURN = "weights_in_turn"
"""Key of an `LLMConfig`'s experimental configs: model -> source of the weights that take turns in the engine."""

WATCH_S = 0.5
"""Seconds between two looks at the engine's process."""

SHUTDOWN_S = 5.0
"""Seconds that the engine's processes have to end by themselves."""

CACHE_RESETS = 100
"""Attempts to empty the prefix cache, 0.1 s apart: requests of clients that left may still hold a part of it."""


class StoredEngine(VLLMEngine):
    """vLLM as Ray serves it, from folders of this machine."""

    def __init__(self, llm_config: Any) -> None:
        loading = llm_config.model_loading_config
        loading.model_source = local_folder(loading.model_source)
        for adapter in llm_config.engine_kwargs.get("lora_modules", ()):
            adapter.path = local_folder(adapter.path)
        llm_config._engine_config = None  # computed from the addresses where the application was built
        self._sources: dict[str, str] = dict(llm_config.experimental_configs.get(WEIGHTS_IN_TURN) or {})
        self._watch: asyncio.Task[None] | None = None
        self._turns = Turns(loading.model_id, self._exchange) if self._sources else None
        super().__init__(llm_config)

    async def start(self) -> None:
        """Start the engine, with its tokenizer within reach: Ray looks for it under the name of an earlier vLLM."""
        await super().start()
        self._oai_serving_tokenization = getattr(self._app_state, "serving_tokenization", None)
        self._list_models(next(iter(self._sources), ""))
        self._watch = asyncio.create_task(end_with(self._engine_client))

    async def shutdown(self) -> None:
        """Stop the engine's processes. They then remove their sockets, files and semaphores; after this, Serve kills
        the replica with all that is left in it."""
        await super().shutdown()
        if self._watch is None:  # it never started
            return
        self._watch.cancel()
        await asyncio.to_thread(self._engine_client.shutdown, timeout=SHUTDOWN_S)

    def chat(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]:
        """Answer a chat, once the weights of its model are loaded."""
        return self._in_turn(request.model, super().chat(request, raw_request_info))

    def completions(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]:
        """Complete a text, once the weights of its model are loaded."""
        return self._in_turn(request.model, super().completions(request, raw_request_info))

    def _in_turn(self, model: str, answer: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """The answer itself, without a step more for every token, where the engine keeps its weights."""
        return answer if self._turns is None else _held(self._turns, model, answer)

    async def _exchange(self, model: str) -> None:
        """Load the weights of another model of the same shapes. What they computed before is forgotten."""
        folder = await asyncio.to_thread(local_folder, self._sources[model])
        await self._engine_client.collective_rpc("exchange_weights", args=(folder,))
        for _ in range(CACHE_RESETS):
            if await self._engine_client.reset_prefix_cache():
                self._list_models(model)
                return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"the prefix cache still holds tokens of the weights before those of {model}")

    def _list_models(self, loaded: str) -> None:
        # The first name is the one that vLLM's answers carry.
        if self._sources:
            names = [loaded, *(name for name in self._sources if name != loaded)]
            self._oai_models.base_model_paths[:] = [BaseModelPath(name, self._sources[name]) for name in names]


async def end_with(engine_client: Any) -> None:
    """End this replica when its engine's process has died, for example of too little memory: Serve replaces a replica
    that is gone at once, and requests wait for the new one. One that lives on fails every request in the meantime."""
    while not engine_client.errored:
        await asyncio.sleep(WATCH_S)
    print("the engine's process has died; the replica ends, and Serve starts another", file=sys.stderr, flush=True)
    os._exit(1)


async def _held(turns: Turns, model: str, answer: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    async with turns.turn(model), aclosing(answer):
        async for item in answer:
            yield item
