"""The students' endpoint."""

from pydantic import Field, model_validator

from distill.config.base import GpuName, Section
from distill.config.teachers import EngineConfig
from serve.api.limits import Limits


class ServeSection(Section):
    """The students' endpoint (evaluation and `distill serve`)."""

    ADDED_LATER = ("gpu",)

    engine: EngineConfig = EngineConfig()
    cpus_per_engine: float = Field(default=1.0, gt=0)
    """Logical CPUs an engine reserves."""
    gpu: GpuName = ""
    """Kind of GPU that engines must have, as Ray names it, for example `L4`. Not read on CPUs. Absent: any."""
    max_engines: int = Field(default=8, ge=1)
    """Engines up at once; evaluation takes the students in groups that fit."""
    min_replicas: int = Field(default=1, ge=0)
    """Copies of every engine that `distill serve` keeps up; 0 stops an engine that nobody asks, at the price of its
    start at the next question. Evaluation always has one."""
    on_demand: tuple[str, ...] = ()
    """Models (`student` or `student@mix`) that are rarely asked: their engine starts with the first question only, and
    stops again. They are not probed before users meet them."""
    idle_s: float = Field(default=600.0, ge=0)
    """Seconds without a request after which an engine that may stop does."""
    surge_percent: int = Field(default=100, ge=0, le=100)
    """How an update to a newer run goes: copies with the new weights started before old ones stop, percent of those
    that run. 0 stops the old first, for clusters without room for both; requests then wait for the start."""
    max_replicas: int = Field(default=1, ge=1)
    """Copies of an engine under load."""
    target_requests: int = Field(default=32, ge=1)
    """Requests per copy that autoscaling aims at."""
    max_requests: int = Field(default=256, ge=1)
    """Requests that one copy takes at the same time; further ones are told to come again (429)."""
    limits: Limits = Limits()
    """Bounds of every request: body, prompt, output, choices."""

    @model_validator(mode="after")
    def _validate_replicas(self) -> "ServeSection":
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas = {self.min_replicas} is above max_replicas = {self.max_replicas}")
        return self
