"""What a recipe can say of teachers: an engine of ours, an endpoint of somebody's, or a data set that exists already.

Whatever its kind, a teacher fills the pool of its name with traces that went through the same verification.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from distill.config.base import GpuName, Name, Section
from distill.config.sources import DataSource
from distill.core.errors import Problem
from distill.core.schema import Style


class Sampling(Section):
    """How completions are drawn."""

    temperature: float = Field(default=0.7, ge=0.0, le=2.0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus mass."""
    max_tokens: int = Field(default=4096, ge=1)
    """Longest completion, tokens."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion (not included in it)."""


class GreedySampling(Sampling):
    """Sampling of an evaluation: greedy unless a temperature is named."""

    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """0 is greedy."""


class WorkedExample(Section):
    """One solved problem shown before the real one."""

    problem: str
    completion: str


class ChatFormat(Section):
    """How a problem becomes chat turns. Students see the same format in training and in evaluation."""

    system: str | None = None
    """System turn. Absent: the chat template's own default."""
    template: str = "{problem}"
    """User turn; `{problem}` is replaced."""
    examples: tuple[WorkedExample, ...] = ()
    """Worked examples, shown as earlier turns."""


class EngineConfig(Section):
    """A vLLM engine. Unknown to us, known to vLLM: goes into `kwargs`."""

    max_model_len: int = Field(default=8192, ge=16)
    """Prompt plus completion, tokens."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share one copy of the weights."""
    pipeline_parallel: int = Field(default=1, ge=1)
    """GPU groups that hold consecutive layers."""
    kv_cache_gb: float = Field(default=1.0, gt=0)
    """CPU only: memory for the key-value cache, GiB."""
    kwargs: dict[str, Any] = Field(default={})
    """Passed to vLLM as they are."""


class AskedTeacher(Section):
    """What teachers that are asked for traces have in common."""

    name: Name
    style: Style
    """Reasoning style of its traces."""
    chat: ChatFormat = ChatFormat()
    """How it is asked."""
    sampling: Sampling = Sampling()
    num_samples: int = Field(default=1, ge=1, le=1024)
    """Most traces per prompt: the budget of a prompt."""
    num_correct: int = Field(default=1, ge=1, le=1024)
    """A prompt with this many correct traces is not asked again. Read where `generate.stop_early` is on."""
    usd_per_million_tokens: float = Field(default=0.0, ge=0.0)
    """Price of a million completion tokens, US dollars: the cheaper teacher is asked first, and money is counted by it.
    Where all prices are equal, teachers are asked in the recipe's order."""
    reasoning_end: str = "</think>"
    """What closes the reasoning; the answer is taken after its last occurrence."""


class VllmTeacher(AskedTeacher):
    """A model that this cluster runs."""

    ADDED_LATER = ("gpu",)

    kind: Literal["vllm"] = "vllm"
    model: str
    """A key of `[models]`."""
    engine: EngineConfig = EngineConfig()
    replicas: tuple[int, int] = (1, 1)
    """Fewest and most engines of this model. Teachers with the same model and engine share them."""
    gpu: GpuName = ""
    """Kind of GPU that its engines must have, as Ray names it, for example `H100`. Not read on CPUs. Absent: any."""


class EndpointTeacher(AskedTeacher):
    """A model behind an address that speaks the OpenAI chat protocol."""

    kind: Literal["endpoint"] = "endpoint"
    base_url: str = Field(pattern=r"^https?://")
    """Address up to and including `/v1`."""
    remote_model: str = Field(min_length=1)
    """The model's name there."""
    api_key_env: str | None = None
    """Environment variable that holds the key; a key is never written in a recipe. Absent: no key is sent."""
    sends_seed: bool = True
    """Off for an address that refuses the `seed` field."""
    max_in_flight: int = Field(default=16, ge=1)
    """Requests open at once."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Rate limit. Absent: none."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Longest wait for one completion, seconds."""
    max_tokens_total: int | None = Field(default=None, ge=1)
    """Budget of this run directory: no request is begun once this many completion tokens were paid for."""
    max_usd_total: float | None = Field(default=None, gt=0)
    """Budget of this run directory in US dollars, by `usd_per_million_tokens`."""


class TraceColumns(Section):
    """Which column of an existing data set means what. Messages are lists of `role`/`content` or `from`/`value`."""

    problem: str = "problem"
    """The question; read from the messages' user turn where the column is absent."""
    completion: str = "completion"
    """What the teacher wrote: text, a list of texts (one trace each), or a list of messages."""
    finish_reason: str = "finish_reason"
    """`length` marks a trace that was cut; may be absent."""


class DatasetTeacher(Section):
    """Traces that exist already, imported as a pool and verified like any other."""

    kind: Literal["dataset"] = "dataset"
    name: Name
    style: Style
    """Reasoning style of its traces."""
    source: DataSource
    """Where they are. Its `columns` are not read: `columns` below are."""
    columns: TraceColumns = TraceColumns()
    where: dict[str, str | int | float | bool] = Field(default={})
    """Only rows whose columns have these values, for example `{ model = "QwQ-32B" }`."""
    ends_with: str = ""
    """What a finished trace ends in, for example `<|end_of_solution|>`; others were cut. Empty: not checked."""
    reasoning_end: str = "</think>"
    """What closes the reasoning; the answer is taken after its last occurrence."""
    num_samples: int = Field(default=1024, ge=1)
    """Most traces per prompt that are taken."""


def _kind(value: Any) -> str:
    """Teachers without a `kind` are engines of ours."""
    kind = value.get("kind", "vllm") if isinstance(value, dict) else getattr(value, "kind", "vllm")
    return str(kind)


TeacherConfig = Annotated[
    Annotated[VllmTeacher, Tag("vllm")]
    | Annotated[EndpointTeacher, Tag("endpoint")]
    | Annotated[DatasetTeacher, Tag("dataset")],
    Discriminator(_kind),
]


class GenerateConfig(Section):
    """How teachers are asked."""

    stop_early: bool = True
    """A prompt is asked again only while it is not solved, and a teacher only for prompts that the cheaper teachers of
    its mixes solved. Off: every teacher writes `num_samples` traces for every prompt."""
    enough_prompts: int | None = Field(default=None, ge=1)
    """Stop once this many prompts are solved by every pool that the mixes draw from. Absent: ask for all prompts."""
    max_attempts: int = Field(default=3, ge=1)
    """Tries of one request, and of one batch whose engine died, before it is given up and counted."""
    flush_s: float = Field(default=1.0, gt=0)
    """Longest time that a verified trace stays in memory before it is on disk, seconds."""
    startup_deadline_s: float = Field(default=1800.0, gt=0)
    """Longest wait for a teacher's first engine, seconds: weights may be fetched and kernels compiled. Also for word of
    any engine later, and for machines that an autoscaler has still to add before cells can be trained."""


def _same_teachers(teachers: Sequence[TeacherConfig]) -> Iterator[Problem]:
    """Two teachers that write the same traces would be one pool under two names."""
    first: dict[str, str] = {}
    free = {"name", "num_samples", "num_correct", "usd_per_million_tokens", "replicas", "gpu"}
    for teacher in teachers:
        other = first.setdefault(teacher.model_dump_json(exclude=free), teacher.name)
        if other != teacher.name:
            what = f"is the same teacher as {other!r}: it would write the same traces"
            yield Problem(f"teachers[{teacher.name}]", what, "keep one, or give them different chat or sampling")


def _engine_problems(teacher: VllmTeacher) -> Iterator[Problem]:
    where, engine, sampling = f"teachers[{teacher.name}]", teacher.engine, teacher.sampling
    if sampling.max_tokens >= engine.max_model_len:
        room = f"engine.max_model_len {engine.max_model_len}"
        what = f"sampling.max_tokens {sampling.max_tokens} leaves no room for a prompt in {room}"
        yield Problem(where, what, "lower max_tokens or raise engine.max_model_len")
    if teacher.replicas[0] < 1 or teacher.replicas[0] > teacher.replicas[1]:
        what = f"{list(teacher.replicas)} is no range"
        yield Problem(f"{where}.replicas", what, "use [fewest, most] with 1 <= fewest <= most")


def _teacher_problems(teacher: AskedTeacher) -> Iterator[Problem]:
    where, sampling = f"teachers[{teacher.name}]", teacher.sampling
    if teacher.num_samples > 1 and sampling.temperature == 0:
        what = f"num_samples {teacher.num_samples} at temperature 0 writes the same trace {teacher.num_samples} times"
        yield Problem(where, what, "raise sampling.temperature or set num_samples = 1")
    if teacher.num_correct > teacher.num_samples:
        what = f"num_correct {teacher.num_correct} cannot be reached with num_samples {teacher.num_samples}"
        yield Problem(where, what, "raise num_samples or lower num_correct")
    if isinstance(teacher, EndpointTeacher) and teacher.max_usd_total and not teacher.usd_per_million_tokens:
        what = f"max_usd_total {teacher.max_usd_total:g} cannot be kept without a price"
        yield Problem(where, what, "set usd_per_million_tokens")
    if "{problem}" not in teacher.chat.template:
        yield Problem(f"{where}.chat.template", "does not contain {problem}", "say where the problem goes")
