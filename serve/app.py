"""Builds the Ray Serve application that serves endpoints under the OpenAI protocol.

Adapters are loaded when their engine starts and are addressed by name: Ray's own LoRA support takes cloud folders only.
Importing this module imports vLLM, which takes seconds.
"""

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.llm import LLMConfig, build_llm_deployment
from vllm.entrypoints.openai.models.protocol import LoRAModulePath

from cluster.vllm_args import engine_arguments, engine_bundles, engine_env, served_threads
from serve.api.admission import AdmissionSettings
from serve.api.ingress import Checker, ModelCard, build_ingress
from serve.config import ENGINE_PREFIX, LOOPBACK, Endpoint, EngineSpec, ServeConfig, group_engines
from serve.config_file import read_arguments
from serve.engines.cpu_engine import CpuEngine
from serve.engines.ray_serve import HEAD_NODE_RESOURCE
from serve.engines.stored_engine import WEIGHTS_IN_TURN, StoredEngine
from serve.engines.weight_exchange import WeightExchange
from serve.proxy_settings import FAST_PROXY_ENV

INGRESS = "ingress"

HEALTH_CHECK_PERIOD_S = 2.0
"""Seconds until Serve notices that a replica is gone, and starts another; its default of 10 would be waited for."""


def build_app(endpoints: Sequence[Endpoint], config: ServeConfig, checker: Checker | None = None) -> Application:
    """The application: one deployment per engine, and an ingress that maps every name to its engine.

    Raises:
        ValueError: two endpoints have the same name, or an adapter cannot be served.
    """
    specs = group_engines(endpoints)
    deployments: dict[str, Application] = {}
    cards: dict[str, Any] = {}
    for spec in specs:
        llm_config = build_llm_config(spec, config)
        deployment = build_llm_deployment(llm_config, name_prefix=ENGINE_PREFIX, bind_kwargs=_engine_class(config))
        for endpoint in spec.endpoints:
            deployments[endpoint.name] = deployment
            cards[endpoint.name] = build_card(endpoint, spec, config, int(time.time()))
    settings = admission_settings(specs, config)
    options: dict[str, Any] = {
        # Admission control refuses excess requests at once; this bound must never make a request wait before it.
        "max_ongoing_requests": 2 * settings.max_per_engine * len(specs) + 256,
        "num_replicas": 1,
        # An update starts the new replica first.
        "max_surge_percent": 100,
        "graceful_shutdown_timeout_s": config.graceful_shutdown_timeout_s,
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "ray_actor_options": {
            # The ingress only forwards requests; on a laptop the engines need every whole core.
            "num_cpus": 0,
            # Beside Serve's controller: on a worker node, the loss of that node would end every request.
            "resources": {HEAD_NODE_RESOURCE: 0.001},
            "runtime_env": {"env_vars": _env_vars(FAST_PROXY_ENV)},
        },
    }
    return ray_serve.deployment(build_ingress(settings), name=INGRESS, **options).bind(
        llm_deployments=deployments,
        model_cards=cards,
        endpoints=list(endpoints),
        max_retries=config.limits.max_retries,
        checker=checker,
    )


def from_config_file(arguments: dict[str, Any]) -> Application:
    """The application of a Serve config file, which names this function as its import path.

    Serve passes the file's arguments as one parameter.

    Raises:
        ValueError: the arguments are wrong, or the address is open to other machines without API keys.
    """
    return build_app(*read_arguments(arguments, os.environ))


def admission_settings(specs: Sequence[EngineSpec], config: ServeConfig) -> AdmissionSettings:
    """The settings of admission control."""
    return AdmissionSettings(
        engines={endpoint.name: spec.name for spec in specs for endpoint in spec.endpoints},
        max_per_engine=config.max_ongoing_requests * config.max_replicas,
        limits=config.limits,
        keys=config.keys,
        loopback_only=config.host in LOOPBACK,
    )


def build_llm_config(spec: EngineSpec, config: ServeConfig) -> LLMConfig:
    """Ray's config of one engine."""
    threads = config.cpu_threads or served_threads(spec.source)
    return LLMConfig(
        model_loading_config={"model_id": spec.base_model, "model_source": spec.source},
        engine_kwargs=_engine_kwargs(spec, config),
        runtime_env={"env_vars": _env_vars(FAST_PROXY_ENV | engine_env(config.device, spec.source, threads))},
        # Tokens are sent as they are generated: the default batches them for 50 ms.
        experimental_configs={"stream_batching_interval_ms": 0, WEIGHTS_IN_TURN: spec.in_turn},
        placement_group_config=_placement_group(config),
        deployment_config={
            "name": spec.name,
            **_replicas(spec, config),
            "max_ongoing_requests": config.max_ongoing_requests,
            "graceful_shutdown_timeout_s": config.graceful_shutdown_timeout_s,
            "health_check_period_s": HEALTH_CHECK_PERIOD_S,
            "max_surge_percent": config.max_surge_percent,
            # An engine that fails to start will fail again: the two retries that Serve makes by default cost minutes.
            "max_constructor_retry_count": 1,
            # Counted in the placement group's bundle; Ray would add the two.
            "ray_actor_options": {"num_cpus": 0},
        },
    )


def _replicas(spec: EngineSpec, config: ServeConfig) -> dict[str, Any]:
    min_replicas = 0 if spec.is_on_demand else config.min_replicas
    if (min_replicas, config.max_replicas) == (1, 1):
        return {"num_replicas": 1}
    return {
        "autoscaling_config": {
            "min_replicas": min_replicas,
            # Started once, and so checked, even where it stops again; unless it is on demand.
            "initial_replicas": 0 if spec.is_on_demand else max(1, min_replicas),
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.target_ongoing_requests,
            "downscale_to_zero_delay_s": config.downscale_to_zero_delay_s,
        }
    }


def _placement_group(config: ServeConfig) -> dict[str, Any]:
    sizes = (int(config.engine_kwargs.get(f"{kind}_parallel_size", 1)) for kind in ("tensor", "pipeline"))
    return engine_bundles(
        config.device,
        math.prod(sizes),
        num_cpus=config.cpus_per_engine,
        num_gpus=config.gpus_per_worker,
        gpu=config.gpu,
    )


def _engine_kwargs(spec: EngineSpec, config: ServeConfig) -> dict[str, Any]:
    template = {"chat_template": spec.chat_template} if spec.chat_template else {}
    kwargs = engine_arguments(
        config.device,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        kv_cache_gib=config.kv_cache_gib,
        # A model's own sampling defaults (penalties, top_k) would apply to requests that did not ask for them.
        extra={"generation_config": "vllm", **template, **config.engine_kwargs},
    )
    if spec.in_turn:
        kwargs["worker_extension_cls"] = f"{WeightExchange.__module__}.{WeightExchange.__qualname__}"
    if spec.adapters:
        kwargs |= {
            "enable_lora": True,
            # All adapters stay loaded, so that requests for different ones share a batch.
            "max_loras": len(spec.adapters),
            "max_lora_rank": spec.max_lora_rank,
            "lora_modules": [LoRAModulePath(name=a.name, path=a.path) for a in spec.adapters],
        }
    return kwargs


def _env_vars(added: Mapping[str, str]) -> dict[str, str]:
    # The variables of a deployment replace those of the job, so both are merged here. Without Ray there is no job.
    inherited: Mapping[str, str] = {}
    if ray.is_initialized():
        inherited = ray.get_runtime_context().runtime_env.get("env_vars", {})
    return {**inherited, **added}


def _engine_class(config: ServeConfig) -> dict[str, Any]:
    return {"engine_cls": StoredEngine if config.device == "gpu" else CpuEngine}


def build_card(endpoint: Endpoint, spec: EngineSpec, config: ServeConfig, created: int) -> ModelCard:
    """What /v1/models says of an endpoint: OpenAI's fields, vLLM's, and the endpoint's metadata.

    `created`: seconds since 1970 at which it was deployed.
    """
    is_adapter = endpoint.adapter is not None
    reasoning = {"reasoning_end": endpoint.reasoning.end} if endpoint.reasoning else {}
    metadata = {
        "model_id": endpoint.name,
        "input_modality": "text",
        "max_request_context_length": config.max_model_len,
        **reasoning,
        **endpoint.metadata,
    }
    return ModelCard(
        id=endpoint.name,
        object="model",
        created=created,
        owned_by="mix-distillation",
        root=spec.base_model if is_adapter else endpoint.name,
        parent=spec.base_model if is_adapter else None,
        max_model_len=config.max_model_len,
        metadata=metadata,
    )
