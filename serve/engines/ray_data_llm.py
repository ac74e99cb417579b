"""The parts of ray.data.llm without a public name that teachers need, as of Ray 2.60.0. Importing this imports vLLM."""

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF
from ray.llm._internal.common.errors import VLLM_CLIENT_ERRORS, VLLM_FATAL_ERRORS

__all__ = ["VLLM_CLIENT_ERRORS", "VLLM_FATAL_ERRORS", "vLLMEngineStageUDF"]
