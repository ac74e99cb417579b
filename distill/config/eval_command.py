"""What `distill eval` can be told: one model, benchmarks, and how it is asked. The sections are a recipe's own."""

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
    """What its scores are filed under, and what an engine of ours serves it as."""
    model: ModelConfig
    """Where its weights are; not read with a `url`."""
    url: str = Field(default="", pattern=r"^(https?://[^\s@]+)?$")
    """Address of an OpenAI-compatible endpoint that serves it, without `/v1`. Empty: an engine is started here."""
    served_name: str = ""
    """Its name at that address."""
    api_key_env: str = Field(default="", pattern=r"^[A-Za-z_0-9]*$")
    """Environment variable that holds the endpoint's key. Empty: it needs none."""
    seed: int = Field(default=17, ge=0)
    """Root of every random choice."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: gpu where the cluster has one."""
    max_problem_chars: int = Field(default=20_000, ge=1)
    """A longer problem is dropped (and counted), characters."""
    student_chat: ChatFormat = ChatFormat()
    """How it is asked."""
    benchmarks: dict[str, BenchmarkConfig] = Field(default={})
    """Sets beside the built-in ones."""
    evaluate: EvaluateConfig
    verify: VerifyConfig = VerifyConfig()
    serve: ServeSection = ServeSection()

    @model_validator(mode="after")
    def _validate_alone(self) -> "EvalConfig":
        if self.evaluate.speculative:
            raise ValueError("evaluate.speculative needs the models of a run: put it into its recipe")
        return self
