"""`[serve]`: the students' endpoint."""

from pydantic import ConfigDict, Field

from distill.config.base import Section
from distill.config.decides import NOTHING, RESULT
from distill.config.teachers import EngineConfig
from serve.config import ServingSettings


class ServeSection(ServingSettings, Section):
    """The students' endpoint (evaluation and `distill serve`)."""

    model_config = ConfigDict(json_schema_extra=NOTHING)  # how students are served decides no score; their engine does

    engine: EngineConfig = Field(default_factory=EngineConfig, json_schema_extra=RESULT)
    """The vLLM engine of every model."""
    max_engines: int = Field(default=8, ge=1)
    """Most engines at the same time; evaluation takes the students in groups that fit."""
    share_engines: bool = True
    """Whether students of the same shapes, trained in full, take turns in one engine whose weights are exchanged: all
    of them on a CPU, on GPUs those that find no engine free. `false` starts an engine for each."""
    on_demand: tuple[str, ...] = ()
    """Rarely used models (`student` or `student@mix`): their engine starts at the first request and stops when idle.
    They are not checked before the endpoint opens."""
