"""Settings of `distill eval`: one model, benchmarks and sampling. The sections are those of a recipe."""

from typing import Any, Literal

from pydantic import Field, model_validator

from distill.config.base import Section
from distill.config.benchmarks import BenchmarkConfig
from distill.config.evaluate import EvaluateConfig
from distill.config.models import ModelConfig
from distill.config.serve import ServeSection
from distill.config.teachers import ChatFormat
from distill.config.verify import VerifyConfig

REQUEST_FIELDS = ("token_limit_field", "omit_sampling", "extra_body")
"""What an endpoint takes in requests, as its teacher's section in a recipe has it."""


class EvalConfig(Section):
    """One model to score. Overrides are dotted, for example `evaluate.repeated.aime24.num_samples=16`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$")
    """Name of the model in its scores, and at the engine that is started for it."""
    model: ModelConfig
    """Its weights; ignored with a `url`."""
    url: str = Field(default="", pattern=r"^(https?://[^\s@]+)?$")
    """Address of an OpenAI-compatible endpoint that serves it, without `/v1`. Empty: an engine is started here."""
    served_name: str = ""
    """Name of the model at that address."""
    api_key_env: str = Field(default="", pattern=r"^[A-Za-z_0-9]*$")
    """Environment variable that holds the endpoint's key. Empty: it needs none."""
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """With a `url`: the field in which `evaluate.sampling.max_tokens` is sent. OpenAI's reasoning models take
    `max_completion_tokens` only."""
    omit_sampling: tuple[Literal["temperature", "top_p", "stop"], ...] = ()
    """With a `url`: fields of `evaluate.sampling` that are not sent, for a model that rejects them: its own defaults
    apply. OpenAI's reasoning models need `["temperature", "top_p"]`."""
    extra_body: dict[str, Any] = Field(default={})
    """With a `url`: added to the body of every request, for example `{ reasoning_effort = "high" }`."""
    seed: int = Field(default=17, ge=0)
    """Root of every random choice."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: gpu where the cluster has one."""
    max_problem_chars: int = Field(default=20_000, ge=1)
    """A longer problem is dropped (and counted), characters."""
    student_chat: ChatFormat = ChatFormat()
    """Format of its prompts."""
    benchmarks: dict[str, BenchmarkConfig] = Field(default={})
    """Benchmarks beside the built-in ones."""
    evaluate: EvaluateConfig
    verify: VerifyConfig = VerifyConfig()
    serve: ServeSection = ServeSection()

    @model_validator(mode="after")
    def _validate_alone(self) -> "EvalConfig":
        if self.evaluate.arms:
            raise ValueError("evaluate.arms needs the models of a run: set it in the run's recipe")
        changed = [name for name in REQUEST_FIELDS if getattr(self, name) != EvalConfig.model_fields[name].default]
        if changed and not self.url:
            raise ValueError(f"{', '.join(changed)}: only for an endpoint -> name its address with --url, or remove it")
        return self
