"""An engine without a cluster, in the process that takes the requests, behind the handle that the ingress asks.

`_callback_instance`, `_prepare_engine_config`, `_start_async_llm_engine` and `_get_vllm_engine_config` are private, as
of Ray 2.60.0.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import FrontendArgs, _get_vllm_engine_config

from serve.engines.stored_engine import StoredEngine


class LocalEngine(StoredEngine):
    """vLLM as Ray serves it, on the devices of this machine and without a cluster."""

    def __init__(self, llm_config: Any) -> None:
        llm_config.log_engine_metrics = False  # they are Ray's
        super().__init__(llm_config)
        # Ray's own would start a cluster for a placement group, and fetch the model, which is a folder, in a task.
        nothing = {"placement_group": None, "run_init_node": False}
        self.llm_config._callback_instance = CallbackBase(self.llm_config, ctx_kwargs=nothing)

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        # For a GPU, Ray reads the settings in a task of the cluster.
        frontend = FrontendArgs(**self.llm_config.get_engine_config().frontend_kwargs)
        engine_arguments, config = _get_vllm_engine_config(self.llm_config)
        return engine_arguments, frontend, config

    def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
        parallel = vllm_engine_config.parallel_config
        parallel.distributed_executor_backend = "uni" if parallel.world_size == 1 else "mp"
        return super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)


class LocalHandle:
    """Stands where the ingress has the handle of an engine's deployment."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    def options(self, **options: Any) -> "LocalHandle":
        """There is one replica, so that nothing is to be chosen."""
        return self

    def __getattr__(self, name: str) -> Any:
        return LocalMethod(getattr(self._engine, name))


class LocalMethod:
    """One method of an engine."""

    def __init__(self, method: Callable[..., AsyncGenerator[Any, None]]) -> None:
        self._method = method

    def remote(self, *arguments: Any) -> "LocalStream":
        """What the engine answers, as it comes."""
        return LocalStream(self._method(*arguments))


class LocalStream:
    """An engine's answer that can be cancelled."""

    def __init__(self, items: AsyncGenerator[Any, None]) -> None:
        self._items = items
        self._closing: asyncio.Task[None] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._items

    def cancel(self) -> None:
        """Have the engine stop writing; nothing happens where it has ended."""
        self._closing = asyncio.ensure_future(self._items.aclose())
