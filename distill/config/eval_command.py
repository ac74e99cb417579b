"""Settings of `distill eval`: one model, benchmarks and sampling. The sections are those of a recipe."""

from typing import Literal

from pydantic import Field, model_validator

from distill.config.base import Section
from distill.config.benchmarks import BenchmarkConfig
from distill.config.evaluate import EvaluateConfig
from distill.config.models import ModelConfig
from distill.config.serve import ServeSection
from distill.config.teachers import ChatFormat
from distill.config.verify import VerifyConfig


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
        if self.evaluate.speculative:
            raise ValueError("evaluate.speculative needs the models of a run: set it in the run's recipe")
        return self
