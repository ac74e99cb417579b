"""The parts of ray.llm without a public name that the ingress needs, as of Ray 2.60.0.

Compare each with its source when Ray is updated: none of them is a stable API. Importing this imports vLLM, which takes
seconds.
"""

from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionRequest,
    ChatCompletionResponse,
    CompletionRequest,
    DetokenizeRequest,
    ErrorResponse,
    OpenAIHTTPException,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
)
from ray.llm._internal.serve.core.ingress.ingress import DEFAULT_ENDPOINTS
from ray.llm._internal.serve.core.ingress.middleware import SetRequestIdMiddleware
from ray.llm._internal.serve.observability.metrics.fast_api_metrics import (
    add_http_metrics_middleware,
    metrics_lifespan,
)

__all__ = [
    "DEFAULT_ENDPOINTS",
    "ChatCompletionRequest",
    "ChatCompletionResponse",
    "CompletionRequest",
    "DetokenizeRequest",
    "ErrorResponse",
    "OpenAIHTTPException",
    "SetRequestIdMiddleware",
    "TokenizeChatRequest",
    "TokenizeCompletionRequest",
    "add_http_metrics_middleware",
    "metrics_lifespan",
]
