"""What is served and how: endpoints, the server's settings, and which endpoints share one engine.

Imports neither ray nor vllm nor torch, so that a wrong setting is refused at once.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.storage import local_folder
from serve.api.limits import Limits
from serve.api.reasoning_parser import Delimiters
from serve.keys import Key

APP = "students"
"""Name of the Serve application."""

ENGINE_PREFIX = "engine:"
"""What the name of an engine's Serve deployment starts with."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM 0.29 can be started for."""

RESERVED_ENGINE_KWARGS = frozenset(
    {"model", "served_model_name", "lora_modules", "enable_lora", "max_loras", "max_lora_rank", "max_model_len"}
)
"""Settled by the endpoints or by a field of their own; a second value for them would be silently lost."""


class Endpoint(BaseModel):
    """One model that clients address by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """What clients put in `model`: letters, digits and . _ @ + - (Ray reads ':' as an adapter separator)."""

    source: str = Field(min_length=1)
    """Folder or hub id of the full weights."""

    adapter: str | None = None
    """Folder of a LoRA adapter on `source`; none means the plain weights."""

    metadata: dict[str, str | float | dict[str, str]] = Field(default_factory=dict)
    """Shown with the model under /v1/models."""

    reasoning: Delimiters | None = None
    """What opens and closes its reasoning; none: everything that it writes is the answer."""

    on_demand: bool = False
    """Rarely asked: its engine starts with the first question, stops when it is idle, and is not checked beforehand.
    Counts where all endpoints of an engine are."""

    @property
    def modes(self) -> dict[str, str]:
        """Mode -> the line that asks for it, as the metadata tell; empty for a model that knows none."""
        modes = self.metadata.get("modes")
        return modes if isinstance(modes, dict) else {}

    @field_validator("name")
    @classmethod
    def _validate_name(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(
                f"endpoint name {name!r} may hold letters, digits and . _ @ + - only, and starts with a letter or digit"
            )
        return name


class ServeConfig(BaseModel):
    """How endpoints are served. The defaults fit several small engines on a laptop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on; the loopback address keeps other machines out."""

    port: int = Field(8000, ge=0, le=65535)
    """TCP port to listen on; 0 takes a free one."""

    device: Literal["cpu", "gpu"] = "cpu"
    """What the engines compute on."""

    engine_cpus: float = Field(0.1, gt=0)
    """CPUs that Ray sets aside per engine; a fraction lets several small engines share a core."""

    engine_gpus: float = Field(1.0, gt=0)
    """GPUs that Ray sets aside per engine; not read when `device` is cpu."""

    gpu: str = ""
    """Kind of GPU, as Ray names it; empty for any. Not read when `device` is cpu."""

    cpu_threads: int | None = Field(None, ge=1)
    """Compute threads of one engine on CPU; none means all cores but one. Not read on a GPU."""

    kv_cache_gib: float = Field(0.5, gt=0)
    """Room for keys and values per engine on CPU, in GiB; on a GPU vLLM takes what is free."""

    max_model_len: int = Field(1024, ge=16)
    """Longest prompt plus completion, in tokens."""

    max_num_seqs: int = Field(64, ge=1)
    """Sequences that one engine computes at the same time."""

    max_ongoing: int = Field(256, ge=1)
    """Requests that one replica of an engine takes at the same time, computed or queued; further ones are told to come
    again (429)."""

    min_replicas: int = Field(1, ge=0)
    """Replicas of every engine that are always up; 0 stops an engine that nobody asks, after `idle_s`."""

    max_replicas: int = Field(1, ge=1)
    """Replicas of an engine under load."""

    target_ongoing: int = Field(32, ge=1)
    """Requests per replica that autoscaling aims at."""

    idle_s: float = Field(600.0, ge=0)
    """Seconds without a request after which an engine that may have no replica has none."""

    surge_percent: int = Field(100, ge=0, le=100)
    """Replicas that an update starts before it stops old ones, percent of those that run: with any, nobody waits for
    the new weights, and memory for both is needed meanwhile. 0 stops first; requests wait for the start."""

    drain_s: float = Field(60.0, gt=0)
    """Seconds that a replica which is to go has for the requests it holds."""

    limits: Limits = Limits()
    """Bounds of every request."""

    keys: tuple[Key, ...] = ()
    """Who may ask; none is allowed on a loopback address only."""

    startup_deadline_s: float = Field(600.0, gt=0)
    """Seconds until every endpoint must answer."""

    engine_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further vLLM engine arguments, passed on as they are."""

    @model_validator(mode="after")
    def _validate_replicas(self) -> "ServeConfig":
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas = {self.min_replicas} is above max_replicas = {self.max_replicas}: lower it"
            )
        return self

    @model_validator(mode="after")
    def _validate_door(self) -> "ServeConfig":
        if problem := open_door(self.host, self.keys):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _validate_engine_kwargs(self) -> "ServeConfig":
        if reserved := sorted(RESERVED_ENGINE_KWARGS & self.engine_kwargs.keys()):
            raise ValueError(
                f"engine_kwargs may not hold {', '.join(reserved)}: endpoints and the fields of serve decide them"
            )
        return self


def open_door(host: str, keys: Sequence[Key]) -> str:
    """Why an address may not be listened on without keys; empty where it may."""
    if keys or host in LOOPBACK:
        return ""
    return (
        f"host {host} lets other machines in and there are no API keys: make one with `python -m serve.keys NAME` and "
        "pass its file with --keys, or listen on 127.0.0.1"
    )


class Adapter(NamedTuple):
    """A LoRA adapter under the name that clients use."""

    name: str
    path: str
    rank: int


class EngineSpec(NamedTuple):
    """One vLLM engine: full weights, and the adapters that ride on them."""

    name: str
    """Name of the Serve deployment; unique."""

    source: str
    adapters: tuple[Adapter, ...]
    endpoints: tuple[Endpoint, ...]

    @property
    def base_model(self) -> str:
        """Name under which the engine knows its plain weights; not listed to clients unless it is an endpoint."""
        return next((endpoint.name for endpoint in self.endpoints if endpoint.adapter is None), f"{self.name}.base")

    @property
    def is_on_demand(self) -> bool:
        """Whether it waits for the first question."""
        return all(endpoint.on_demand for endpoint in self.endpoints)

    @property
    def max_lora_rank(self) -> int:
        """Smallest rank that vLLM offers and every adapter fits in."""
        largest = max(adapter.rank for adapter in self.adapters)
        return next(rank for rank in LORA_RANKS if rank >= largest)


def group_engines(
    endpoints: Sequence[Endpoint], *, rank_of: Callable[[str], int] | None = None
) -> tuple[EngineSpec, ...]:
    """Share one engine among the plain weights of a source and all adapters on them, in the order given."""
    _validate_endpoints(endpoints)
    by_source: dict[str, list[Endpoint]] = defaultdict(list)
    for endpoint in endpoints:
        by_source[endpoint.source].append(endpoint)
    return tuple(_build_spec(group, rank_of or adapter_rank) for group in by_source.values())


def adapter_rank(folder: str) -> int:
    """Rank of a peft adapter; refuses the kinds that vLLM would load wrongly or not at all."""
    path = Path(local_folder(folder)) / "adapter_config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no LoRA adapter: it has no adapter_config.json")
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("use_dora") or settings.get("modules_to_save"):
        raise ValueError(f"{folder} uses DoRA or modules_to_save, which vLLM cannot add to a model: merge it first")
    # rank_pattern gives single modules a rank of their own, and the engine must hold the largest.
    rank = max([int(settings["r"]), *(int(value) for value in (settings.get("rank_pattern") or {}).values())])
    if rank > LORA_RANKS[-1]:
        raise ValueError(f"{folder} has rank {rank}; vLLM serves up to {LORA_RANKS[-1]}: merge it and serve that")
    return rank


def _validate_endpoints(endpoints: Sequence[Endpoint]) -> None:
    if not endpoints:
        raise ValueError("nothing to serve: give at least one endpoint")
    names: set[str] = set()
    weights: dict[tuple[str, str | None], str] = {}
    for endpoint in endpoints:
        if endpoint.name in names:
            raise ValueError(f"two endpoints are named {endpoint.name!r}: names must differ")
        names.add(endpoint.name)
        other = weights.setdefault((endpoint.source, endpoint.adapter), endpoint.name)
        if other != endpoint.name:
            raise ValueError(f"{other!r} and {endpoint.name!r} are the same weights ({endpoint.source}): keep one")
    if len({_engine_name(name) for name in names}) < len(names):
        raise ValueError(f"endpoint names differ only in punctuation: {', '.join(sorted(names))}")


def _build_spec(group: Sequence[Endpoint], rank_of: Callable[[str], int]) -> EngineSpec:
    first = group[0]
    adapters = tuple(Adapter(e.name, e.adapter, rank_of(e.adapter)) for e in group if e.adapter is not None)
    return EngineSpec(_engine_name(first.name), first.source, adapters, tuple(group))


def _engine_name(endpoint_name: str) -> str:
    # It becomes the name of a Serve deployment and part of its log files' names.
    return re.sub(r"[@+.]", "-", endpoint_name)
