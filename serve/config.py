"""Endpoints, the server's settings, and which endpoints share one engine.

Imports neither ray nor vllm nor torch, so that a wrong setting is reported at once.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.gpus import GpuName
from cluster.storage import local_folder
from serve.api.limits import Limits
from serve.api.reasoning_parser import Delimiters
from serve.keys import Key

APP = "students"
"""Name of the Serve application."""

ENGINE_PREFIX = "engine:"
"""Prefix of the name of an engine's Serve deployment."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM 0.29 can be started for."""

RESERVED_ENGINE_KWARGS = frozenset(
    {"model", "served_model_name", "lora_modules", "enable_lora", "max_loras", "max_lora_rank", "max_model_len"}
)
"""Set by the endpoints or by fields of `ServeConfig`; a second value for them would be silently lost."""


class Endpoint(BaseModel):
    """One model that clients address by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    """What clients put in `model`: letters, digits and . _ @ + - (Ray reads ':' as an adapter separator)."""

    source: str = Field(min_length=1)
    """Folder or hub id of the full weights."""

    adapter: str | None = None
    """Folder of a LoRA adapter on `source`. Absent: the plain weights."""

    metadata: dict[str, str | float | dict[str, str] | list[dict[str, str]]] = Field(default_factory=dict)
    """Listed with the model under /v1/models."""

    reasoning: Delimiters | None = None
    """Delimiters of its reasoning. Absent: everything that it writes is the answer."""

    reasoning_in_content: bool = False
    """The reasoning stays in the text, as an evaluation grades it."""

    opens_reasoning: bool = False
    """Its chat template can begin the reasoning, depending on options and turns: every rendered prompt is looked at."""

    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end its turn, beside those of the model's own files: what a student was taught to end with."""

    keeps_special_tokens: bool = False
    """Its think tags are special tokens: the engine must leave them in the text."""

    chat_template: str | None = None
    """Jinja template in the place of the one in `source`. Absent: that one."""

    template_options: dict[str, Any] = Field(default_factory=dict)
    """Variables of its chat template, for requests that do not set them."""

    mode_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Mode -> variables of its chat template that ask for it, beside the line in the metadata."""

    mode_openings: dict[str, str] = Field(default_factory=dict)
    """Mode -> the text that begins the completion in it, of a model that writes its mode itself: without a mode, or
    with `auto`, it chooses one."""

    system_as: Literal["user"] | None = None
    """`user`: system turns are written above the first user turn, since the chat template refuses them."""

    shared_engine: str = ""
    """Full weights with the same label take turns in one engine, which exchanges its weights: they must have the same
    shapes and the same tokenizer. Absent: an engine of its own, shared with the adapters on its source alone."""

    on_demand: bool = False
    """For rarely used models: the engine starts at the first request, stops when idle, and is not checked beforehand.
    Takes effect where all endpoints of an engine have it."""

    @property
    def modes(self) -> dict[str, str]:
        """Mode -> the system line that selects it, from the metadata; empty for a model without modes."""
        modes = self.metadata.get("modes")
        return modes if isinstance(modes, dict) else {}

    @field_validator("name")
    @classmethod
    def _validate_name(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(
                f"endpoint name {name!r} may hold only letters, digits and . _ @ + -, and must start with a letter or "
                "digit"
            )
        return name

    @model_validator(mode="after")
    def _validate_shared_engine(self) -> Self:
        if self.shared_engine and self.adapter:
            raise ValueError(f"endpoint {self.name!r} is an adapter: shared_engine is for full weights")
        return self


class ServingSettings(BaseModel):
    """How engines are served, replicated and limited: what a recipe's `[serve]` and `ServeConfig` have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    cpus_per_engine: float = Field(default=1.0, gt=0)
    """Logical CPUs that Ray reserves for an engine; with a fraction, several small engines share a core."""
    gpu: GpuName = ""
    """Kind of GPU that engines must have, as Ray names it, for example `L4`. Not read on CPUs. Absent: any."""
    min_replicas: int = Field(default=1, ge=0)
    """Copies of every engine that `distill serve` keeps running; with 0, an engine without requests stops and starts
    again at the next request, which waits for it. Evaluation always has one."""
    max_replicas: int = Field(default=1, ge=1)
    """Most copies of an engine under load."""
    target_ongoing_requests: int = Field(default=32, ge=1)
    """Requests per copy that autoscaling aims at."""
    max_ongoing_requests: int = Field(default=256, ge=1)
    """Most requests that one copy takes at the same time, running or queued; further ones are refused with 429."""
    downscale_to_zero_delay_s: float = Field(default=600.0, ge=0)
    """Seconds without a request after which an engine that may have no copy stops."""
    max_surge_percent: int = Field(default=100, ge=0, le=100)
    """How an update proceeds: copies with the new weights that start before old ones stop, percent of the running ones.
    Both need memory meanwhile. 0 stops the old ones first, and requests wait for the start."""
    limits: Limits = Field(default_factory=Limits)
    """Bounds of every request: body, prompt, output, choices."""

    @model_validator(mode="after")
    def _validate_replicas(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas = {self.min_replicas} is above max_replicas = {self.max_replicas}: lower it"
            )
        return self


class ServeConfig(ServingSettings):
    """How endpoints are served. The defaults fit a small engine on a laptop."""

    host: str = "127.0.0.1"
    """Address to listen on; the loopback address accepts connections from this machine only."""
    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port to listen on; 0 takes a free one."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What the engines compute on."""
    gpus_per_worker: float = Field(default=1.0, gt=0)
    """GPUs that Ray reserves for each worker of an engine. Not read on CPUs."""
    cpu_threads: int | None = Field(default=None, ge=1)
    """Compute threads of one engine on CPU. Absent: all cores but one. Not read on a GPU."""
    kv_cache_gib: float = Field(default=0.5, gt=0)
    """Memory for the key-value cache of one engine on CPU, GiB; on a GPU vLLM takes what is free."""
    max_model_len: int = Field(default=1024, ge=16)
    """Longest prompt plus completion, tokens."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Sequences that one engine computes at the same time."""
    graceful_shutdown_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that a stopping replica has for its open requests."""
    keys: tuple[Key, ...] = ()
    """API keys of the clients. Empty is allowed on a loopback address only."""
    startup_deadline_s: float = Field(default=600.0, gt=0)
    """Seconds until every endpoint must answer."""
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further vLLM engine arguments, passed on as they are."""

    @model_validator(mode="after")
    def _validate_keys(self) -> Self:
        if problem := keys_problem(self.host, self.keys):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _validate_engine_kwargs(self) -> Self:
        if reserved := sorted(RESERVED_ENGINE_KWARGS & self.engine_kwargs.keys()):
            raise ValueError(f"engine_kwargs may not hold {', '.join(reserved)}: endpoints and other fields set them")
        return self


def keys_problem(host: str, keys: Sequence[Key]) -> str:
    """Why a server may not listen on an address without API keys; empty where it may."""
    if keys or host in LOOPBACK:
        return ""
    return (
        f"host {host} accepts connections from other machines and there are no API keys: make one with "
        "`python -m serve.keys NAME` and pass its file with --keys, or listen on 127.0.0.1"
    )


class Adapter(NamedTuple):
    """A LoRA adapter under the name that clients use."""

    name: str
    path: str
    rank: int


class EngineSpec(NamedTuple):
    """One vLLM engine: full weights and the adapters on them, or several full weights that take turns."""

    name: str
    """Name of the Serve deployment; unique."""

    source: str
    adapters: tuple[Adapter, ...]
    endpoints: tuple[Endpoint, ...]

    @property
    def base_model(self) -> str:
        """The engine's name for its plain weights; not listed to clients unless it is an endpoint."""
        return next((endpoint.name for endpoint in self.endpoints if endpoint.adapter is None), f"{self.name}.base")

    @property
    def in_turn(self) -> dict[str, str]:
        """Name -> source of all weights that take turns; empty for an engine that keeps its own."""
        shared = {endpoint.name: endpoint.source for endpoint in self.endpoints if endpoint.shared_engine}
        return shared if len(shared) > 1 else {}

    @property
    def chat_template(self) -> str | None:
        """The template in the place of the one in `source`: one per engine, since adapters share its tokenizer."""
        return next((endpoint.chat_template for endpoint in self.endpoints if endpoint.chat_template), None)

    @property
    def is_on_demand(self) -> bool:
        """Whether it starts at the first request."""
        return all(endpoint.on_demand for endpoint in self.endpoints)

    @property
    def max_lora_rank(self) -> int:
        """Smallest rank that vLLM supports and that holds every adapter."""
        largest = max(adapter.rank for adapter in self.adapters)
        return next(rank for rank in LORA_RANKS if rank >= largest)


def group_engines(
    endpoints: Sequence[Endpoint], *, rank_of: Callable[[str], int] | None = None
) -> tuple[EngineSpec, ...]:
    """Share one engine among the plain weights of a source and all adapters on them, and among the weights of one
    `shared_engine`, in the order given."""
    _validate_endpoints(endpoints)
    groups: dict[tuple[str, str], list[Endpoint]] = defaultdict(list)
    for endpoint in endpoints:
        groups[engine_key(endpoint.shared_engine, endpoint.source)].append(endpoint)
    return tuple(_build_spec(group, rank_of or adapter_rank) for group in groups.values())


def engine_key(shared_engine: str, source: str) -> tuple[str, str]:
    """What the endpoints of one engine have in common: its label, or without one the weights that it loads."""
    return shared_engine, "" if shared_engine else source


def adapter_rank(folder: str) -> int:
    """Rank of a PEFT adapter.

    Raises:
        ValueError: it is no adapter, or one that vLLM would load wrongly or not at all.
    """
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
        raise ValueError("nothing to serve: name at least one endpoint")
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
