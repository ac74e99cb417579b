"""Endpoints -> one Ray Serve application with an OpenAI-compatible door.

Adapters are loaded when their engine starts and are addressed by name: Ray's own LoRA path takes cloud folders only.
Importing this module imports vLLM, which takes seconds.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import serve as ray_serve
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
from ray.serve import Application
from ray.serve.llm import LLMConfig, build_llm_deployment
from vllm.entrypoints.openai.models.protocol import LoRAModulePath

from cluster.vllm_args import engine_arguments, engine_bundles, engine_environment
from serve.api.admission import DoorSettings
from serve.api.ingress import Checker, build_ingress
from serve.config import ENGINE_PREFIX, LOOPBACK, Endpoint, EngineSpec, ServeConfig, group_engines
from serve.config_file import read_arguments
from serve.proxy_settings import QUICK_WAYS

INGRESS = "ingress"


def build_app(endpoints: Sequence[Endpoint], config: ServeConfig, checker: Checker | None = None) -> Application:
    """The application: one deployment per engine, and an ingress that maps every name to its engine.

    Raises:
        ValueError: names clash, or an adapter cannot be served.
    """
    specs = group_engines(endpoints)
    deployments: dict[str, Application] = {}
    cards: dict[str, Any] = {}
    for spec in specs:
        llm_config = build_llm_config(spec, config)
        deployment = build_llm_deployment(llm_config, name_prefix=ENGINE_PREFIX, bind_kwargs=_engine_class(config))
        for endpoint in spec.endpoints:
            deployments[endpoint.name] = deployment
            cards[endpoint.name] = to_model_metadata(endpoint.name, llm_config, _card_metadata(endpoint))
    settings = door_settings(specs, config)
    options: dict[str, Any] = {
        # The door refuses what is too much, at once; this bound must never make a request wait before it.
        "max_ongoing_requests": 2 * settings.max_per_engine * len(specs) + 256,
        "num_replicas": 1,
        # An update starts the new one first.
        "max_surge_percent": 100,
        "graceful_shutdown_timeout_s": config.drain_s,
        "ray_actor_options": {
            # The ingress only forwards; on a laptop every whole core belongs to the engines.
            "num_cpus": 0,
            # Beside Serve's controller: on a worker its host's loss would cut every request, not only the replicas'.
            "resources": {HEAD_NODE_RESOURCE_NAME: 0.001},
            "runtime_env": {"env_vars": _env_vars(QUICK_WAYS)},
        },
    }
    return ray_serve.deployment(build_ingress(settings), name=INGRESS, **options).bind(
        llm_deployments=deployments,
        model_cards=cards,
        reasoning={endpoint.name: endpoint.reasoning for endpoint in endpoints if endpoint.reasoning},
        modes={endpoint.name: endpoint.modes for endpoint in endpoints if endpoint.modes},
        max_retries=config.limits.max_retries,
        checker=checker,
    )


def from_config_file(arguments: dict[str, Any]) -> Application:
    """The application of a Serve config file, whose import path is this function (Serve allows it one parameter).

    Raises:
        ValueError: the file's arguments are wrong, or other machines are let in without keys.
    """
    return build_app(*read_arguments(arguments, os.environ))


def door_settings(specs: Sequence[EngineSpec], config: ServeConfig) -> DoorSettings:
    """What the door needs to know of the engines."""
    return DoorSettings(
        engines={endpoint.name: spec.name for spec in specs for endpoint in spec.endpoints},
        max_per_engine=config.max_ongoing * config.max_replicas,
        limits=config.limits,
        keys=config.keys,
        loopback_only=config.host in LOOPBACK,
    )


def build_llm_config(spec: EngineSpec, config: ServeConfig) -> LLMConfig:
    """Ray's description of one engine."""
    return LLMConfig(
        model_loading_config={"model_id": spec.base_model, "model_source": spec.source},
        engine_kwargs=_engine_kwargs(spec, config),
        runtime_env={
            "env_vars": _env_vars(QUICK_WAYS | engine_environment(config.device, spec.source, config.cpu_threads))
        },
        # Tokens go out as they are made: the default gathers them for 50 ms first.
        experimental_configs={"stream_batching_interval_ms": 0},
        placement_group_config=_placement(config),
        deployment_config={
            "name": spec.name,
            **_replicas(spec, config),
            "max_ongoing_requests": config.max_ongoing,
            "graceful_shutdown_timeout_s": config.drain_s,
            "max_surge_percent": config.surge_percent,
            # An engine that cannot start is wrong, not unlucky: the two further tries Serve makes cost minutes.
            "max_constructor_retry_count": 1,
            # Counted in the placement group's bundle: Ray adds the two.
            "ray_actor_options": {"num_cpus": 0},
        },
    )


def _replicas(spec: EngineSpec, config: ServeConfig) -> dict[str, Any]:
    fewest = 0 if spec.is_on_demand else config.min_replicas
    if (fewest, config.max_replicas) == (1, 1):
        return {"num_replicas": 1}
    return {
        "autoscaling_config": {
            "min_replicas": fewest,
            # Started, and so checked, even where it will stop again; but for those that wait for a question.
            "initial_replicas": 0 if spec.is_on_demand else max(1, fewest),
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.target_ongoing,
            "downscale_to_zero_delay_s": config.idle_s,
        }
    }


def _placement(config: ServeConfig) -> dict[str, Any]:
    parallel = [int(config.engine_kwargs.get(f"{kind}_parallel_size", 1)) for kind in ("tensor", "pipeline")]
    return engine_bundles(
        config.device,
        parallel[0] * parallel[1],
        num_cpus=config.engine_cpus,
        num_gpus=config.engine_gpus,
        gpu=config.gpu,
    )


def _engine_kwargs(spec: EngineSpec, config: ServeConfig) -> dict[str, Any]:
    kwargs = engine_arguments(
        config.device,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        kv_cache_gb=config.kv_cache_gib,
        extra=config.engine_kwargs,
    )
    if spec.adapters:
        kwargs |= {
            "enable_lora": True,
            # All adapters stay loaded: requests for different ones share a batch.
            "max_loras": len(spec.adapters),
            "max_lora_rank": spec.max_lora_rank,
            "lora_modules": [LoRAModulePath(name=a.name, path=a.path) for a in spec.adapters],
        }
    return kwargs


def _env_vars(ours: Mapping[str, str]) -> dict[str, str]:
    # Ray replaces the job's variables by a deployment's, so ours are added to them here.
    inherited: Mapping[str, str] = ray.get_runtime_context().runtime_env.get("env_vars", {})
    return {**inherited, **ours}


def _engine_class(config: ServeConfig) -> dict[str, Any]:
    if config.device == "gpu":
        from serve.engines.stored_engine import StoredEngine

        return {"engine_cls": StoredEngine}
    from serve.engines.cpu_engine import CpuEngine

    return {"engine_cls": CpuEngine}


def _card_metadata(endpoint: Endpoint) -> dict[str, Any]:
    # Ray's card names the engine's own model; a client knows the endpoint.
    return {"model_id": endpoint.name, **endpoint.metadata}
