"""Config of the teachers: a model on this cluster, an API endpoint, or an existing data set of traces.

Whatever its kind, a teacher fills the pool of its name, and all traces are graded by the same verifier.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from cluster.gpus import GpuName
from distill.config.base import Name, Section
from distill.config.decides import EXTENT, IF_SET, NOTHING, from_stage, hashed_as
from distill.config.sources import Column, ColumnList, DataSource, Pattern, Where
from distill.core.schema import Style, content_hash
from serve.api.template_options import OptionName, OptionValue


def _check_regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return pattern


class Sampling(Section):
    """How completions are sampled."""

    temperature: float = Field(default=0.7, ge=0.0, le=2.0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Probability mass of nucleus sampling."""
    max_tokens: int = Field(default=4096, ge=1)
    """Longest completion, tokens."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion (not included in it)."""


class GreedySampling(Sampling):
    """Sampling of an evaluation: greedy unless a temperature is set."""

    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """0 is greedy."""


class WorkedExample(Section):
    """One solved problem shown before the real one."""

    problem: str
    """The problem, as a user turn."""
    completion: str
    """Its solution, as the turn of the assistant."""
    trace: str | None = Field(default=None, json_schema_extra=IF_SET)
    """What is read, where the teacher reads (`{trace}`)."""


class ChatFormat(Section):
    """How a problem becomes chat turns. Students get the same format in training and in evaluation."""

    system: str | None = None
    """System turn. Absent: the chat template's own default."""
    system_as: Literal["user"] | None = Field(default=None, json_schema_extra=IF_SET)
    """`user`: the system text stands above the first user turn, for templates that refuse a system turn (Gemma 2).
    Absent: it is a turn of its own."""
    template: str = "{problem}"
    """User turn; `{problem}` is replaced, and `{trace}` where the teacher reads."""
    examples: tuple[WorkedExample, ...] = ()
    """Worked examples, shown as earlier turns."""
    template_options: dict[OptionName, OptionValue] = Field(default={}, json_schema_extra=IF_SET)
    """Variables of the model's own chat template, for example `{ enable_thinking = false }` or
    `{ reasoning_effort = "low" }`. An endpoint gets them as `chat_template_kwargs`."""


class EngineConfig(Section):
    """A vLLM engine. Options of vLLM that have no field here go into `kwargs`."""

    max_model_len: int = Field(default=8192, ge=16)
    """Longest prompt plus completion, tokens."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share one copy of the weights."""
    pipeline_parallel: int = Field(default=1, ge=1)
    """GPU groups that hold consecutive layers."""
    kv_cache_gib: float = Field(default=1.0, gt=0, json_schema_extra=hashed_as("kv_cache_gb"))
    """CPU only: memory for the key-value cache, GiB."""
    kwargs: dict[str, Any] = Field(default={})
    """Passed to vLLM unchanged."""

    @field_validator("kwargs")
    @classmethod
    def _validate_kwargs(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if kwargs.get("trust_remote_code"):
            raise ValueError(
                "trust_remote_code = true: code that comes with a model is not run, here as in training -> leave it "
                "out, and take a model that vLLM and transformers know by themselves"
            )
        return kwargs

    @property
    def limits(self) -> dict[str, Any]:
        """What decides the answers of a model that is asked for them: the room behind a prompt, and vLLM's options."""
        return {"max_model_len": self.max_model_len, "kwargs": self.kwargs}

    @property
    def num_gpus(self) -> int:
        """GPUs (on CPU: workers) that one engine spans."""
        return self.tensor_parallel * self.pipeline_parallel


class Reader(Section):
    """Base of the teachers that can read another pool: each of its verified traces becomes a new one, an edit."""

    name: Name = Field(json_schema_extra=EXTENT)
    """Name of the teacher and of its pool."""
    style: Style
    """Reasoning style of its traces."""
    reads: Name | None = Field(default=None, json_schema_extra=EXTENT)
    """Name of another teacher, whose traces it edits. Absent: it reads nothing."""
    part: Literal["reasoning", "answer"] | None = Field(default=None, json_schema_extra=IF_SET)
    """Only what stands before, or after, the end of the thinking of what is read. Absent: all of it."""
    keep: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(default=None, json_schema_extra=IF_SET)
    """Only this share of what is read, from its beginning on, up to the end of a word. Absent: all of it."""
    keep_if: Literal["shorter"] | None = Field(default=None, json_schema_extra=EXTENT)
    """`shorter`: an edit that has as many characters as its source, or more, is not used. Absent: it is."""


class AskedTeacher(Reader):
    """Base of the teachers that are asked for traces."""

    takes: Literal["correct", "wrong", "any"] = Field(default="correct", json_schema_extra=EXTENT)
    """Which traces it reads: those that a mix could use, those with a wrong answer or none, or all."""
    continues: Annotated[str, Field(min_length=1)] | None = Field(default=None, json_schema_extra=IF_SET)
    """What is read opens its answer, followed by this cue (`"Wait,"`), and it writes on from there; of a trace with
    thinking only the thinking is continued. A cue that begins with white space follows at once, any other after an
    empty line. Absent: what is read stands in its prompt, at `{trace}`."""
    teach: Literal["suffix"] | None = Field(default=None, json_schema_extra=from_stage("mix", EXTENT))
    """`suffix`: students are not trained on what was read, only on what it wrote. Absent: on the whole trace."""
    chat: ChatFormat = Field(default_factory=ChatFormat)
    """How it is asked."""
    sampling: Sampling = Field(default_factory=Sampling)
    """How its completions are sampled."""
    num_samples: int = Field(default=1, ge=1, le=1024, json_schema_extra=EXTENT)
    """Most traces per prompt; of a teacher that reads, per trace that it reads."""
    num_correct: int = Field(default=1, ge=1, le=1024, json_schema_extra=EXTENT)
    """A prompt with this many correct traces is not asked again. Applies only with `generate.stop_early`."""
    usd_per_million_tokens: float = Field(default=0.0, ge=0.0, json_schema_extra=EXTENT)
    """Price of a million completion tokens, US dollars. Decides the order in which teachers are asked, the cheapest
    first (at equal prices in the recipe's order), and is what costs are computed from."""
    reasoning_end: str = "</think>"
    """The delimiter that ends the reasoning; the answer is what follows its last occurrence."""


class VllmTeacher(AskedTeacher):
    """A model that runs on this cluster."""

    kind: Literal["vllm"] = "vllm"
    model: str = Field(json_schema_extra=EXTENT)
    """A key of `[models]`, or a student of this run, `STUDENT@ARM`: it is asked in a second pass, after that arm is
    trained. Of several training seeds the first one's student writes, for all; `STUDENT@ARM@SEED` names another's."""
    engine: EngineConfig = Field(default_factory=EngineConfig)
    """Its vLLM engine."""
    replicas: tuple[int, int] = Field(default=(1, 1), json_schema_extra=NOTHING)
    """Fewest and most engines of this model. Teachers with the same model and engine share them."""
    gpu: GpuName = Field(default="", json_schema_extra=NOTHING)
    """Kind of GPU that its engines need, as Ray names it, for example `H100`. Ignored on CPUs. Absent: any."""


class EndpointTeacher(AskedTeacher):
    """A model behind an OpenAI-compatible endpoint."""

    kind: Literal["endpoint"] = "endpoint"
    base_url: str = Field(pattern=r"^https?://", json_schema_extra=EXTENT)
    """Address up to and including `/v1`."""
    remote_model: str = Field(min_length=1, json_schema_extra=EXTENT)
    """The model's name at the endpoint."""
    api_key_env: str | None = Field(default=None, json_schema_extra=NOTHING)
    """Environment variable with the API key; keys are never written in a recipe. Absent: no key is sent."""
    sends_seed: bool = Field(default=True, json_schema_extra=NOTHING)
    """Off for an endpoint that rejects the `seed` field."""
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", json_schema_extra=NOTHING
    )
    """The field in which `sampling.max_tokens` is sent. OpenAI's reasoning models take `max_completion_tokens` only."""
    omit_sampling: tuple[Literal["temperature", "top_p", "stop"], ...] = Field(default=(), json_schema_extra=IF_SET)
    """Fields of `sampling` that are not sent, for a model that rejects them: its own defaults apply. OpenAI's reasoning
    models need `["temperature", "top_p"]`."""
    extra_body: dict[str, Any] = Field(default={}, json_schema_extra=IF_SET)
    """Added to the body of every request: the provider's own options, for example `{ reasoning_effort = "high" }` or
    `{ chat_template_kwargs = { enable_thinking = false } }`."""
    max_in_flight: int = Field(default=16, ge=1, json_schema_extra=NOTHING)
    """Requests open at once."""
    requests_per_minute: float | None = Field(default=None, gt=0, json_schema_extra=NOTHING)
    """Rate limit. Absent: none."""
    timeout_s: float = Field(default=600.0, gt=0, json_schema_extra=NOTHING)
    """Longest wait for one completion, seconds."""
    max_tokens_total: int | None = Field(default=None, ge=1, json_schema_extra=EXTENT)
    """Budget of this run directory: no further request is sent once this many completion tokens were paid for."""
    max_usd_total: float | None = Field(default=None, gt=0, json_schema_extra=EXTENT)
    """Budget of this run directory in US dollars, by `usd_per_million_tokens`."""


class TraceColumns(Section):
    """The columns of an existing data set. A column may be a path into nested ones, with dots, as for prompts. Chat
    turns are lists of `role`/`content` or `from`/`value`, also as JSON text."""

    problem: str = "problem"
    """The question; taken from the user turn of the completion where the column is absent."""
    problem_pattern: Pattern | None = Field(default=None, json_schema_extra=IF_SET)
    """Regular expression that takes fixed text around a problem off: its group `problem`, or else its first group, is
    the problem. Rows that it does not match are dropped, and counted. A dot matches line breaks too."""
    completion: Column | ColumnList = "completion"
    """What the teacher wrote: text, chat turns, or a list of either (one trace each); or several such columns."""
    turns: Literal["all"] | None = Field(default=None, json_schema_extra=IF_SET)
    """Of chat turns, the trace is the last turn of the assistant; `all`: all of them, joined."""
    reasoning: Column | ColumnList | None = Field(default=None, json_schema_extra=IF_SET)
    """Column with the reasoning where the completion holds only the answer, one for each completion column. Both are
    joined with the delimiters of `reasoning_end`. Reasoning in a field of a chat turn (`reasoning_content`,
    `reasoning`, `thinking`) is joined without it."""
    finish_reason: str = "finish_reason"
    """`length` marks a truncated trace; may be absent."""
    correct: Column | None = Field(default=None, json_schema_extra=IF_SET)
    """Column that says whether a trace is correct, or one value per trace of the row. Traces that it calls wrong are
    left out; the others are graded like any trace. Absent: all are graded."""

    @model_validator(mode="after")
    def _has_pairs(self) -> Self:
        if self.reasoning is not None and len(names(self.reasoning)) != len(names(self.completion)):
            pairs = f"reasoning {names(self.reasoning)} and completion {names(self.completion)}"
            raise ValueError(f"{pairs} do not pair: name as many of each")
        return self


def names(column: str | tuple[str, ...]) -> list[str]:
    """The columns that a field names."""
    return [column] if isinstance(column, str) else list(column)


class DatasetTeacher(Section):
    """An existing data set of traces, imported as a pool and graded like any other."""

    kind: Literal["dataset"] = "dataset"
    name: Name = Field(json_schema_extra=EXTENT)
    """Name of the teacher and of its pool."""
    style: Style
    """Reasoning style of its traces."""
    source: DataSource = Field(json_schema_extra=EXTENT)
    """Where the traces are. Its `columns` are ignored: the `columns` below apply."""
    columns: TraceColumns = Field(default_factory=TraceColumns)
    """Which column means what."""
    where: Where = Field(default={})
    """Only rows with these values, for example `{ model = "QwQ-32B" }`; lists and ranges as in a source's `where`."""
    ends_with: str = ""
    """How a finished trace ends, for example `<|end_of_solution|>`; others count as truncated. Empty: not checked."""
    reasoning_end: str = "</think>"
    """The delimiter that ends the reasoning; the answer is what follows its last occurrence."""
    num_samples: int = Field(default=1024, ge=1, json_schema_extra=EXTENT)
    """Most traces per prompt that are imported."""


class Replacement(Section):
    """Text that is replaced wherever it occurs."""

    pattern: Annotated[str, AfterValidator(_check_regex)]
    """Regular expression (of Python's `re`)."""
    by: str = ""
    """What stands there instead; `\\1` is the first group. Absent: nothing."""


class RuleTeacher(Reader):
    """No model: what it reads is cut and rewritten by rules, and verified like any trace."""

    kind: Literal["rule"] = "rule"
    reads: Name = Field(json_schema_extra=EXTENT)
    """Name of another teacher, whose correct traces it edits."""
    replace: tuple[Replacement, ...] = Field(default=(), json_schema_extra=IF_SET)
    """Replacements, one after the other."""
    reasoning_end: str = "</think>"
    """The delimiter that ends the reasoning; the answer is what follows its last occurrence."""

    @property
    def num_samples(self) -> int:
        """A rule makes one edit of a trace."""
        return 1


def _kind(value: Any) -> str:
    """The kind of a teacher; `vllm` where the recipe names none."""
    kind = value.get("kind", "vllm") if isinstance(value, dict) else getattr(value, "kind", "vllm")
    return str(kind)


TeacherConfig = Annotated[
    Annotated[VllmTeacher, Tag("vllm")]
    | Annotated[EndpointTeacher, Tag("endpoint")]
    | Annotated[DatasetTeacher, Tag("dataset")]
    | Annotated[RuleTeacher, Tag("rule")],
    Discriminator(_kind),
]


def read_pool(teacher: TeacherConfig) -> str | None:
    """Name of the teacher whose traces it reads; None where it reads nothing."""
    return teacher.reads if isinstance(teacher, Reader) else None


def engine_key(teacher: TeacherConfig, model: str = "") -> str:
    """Equal for teachers that share their engines: two styles of one model need one group of engines, not two.

    Args:
        teacher: any teacher; one that is no engine of this cluster shares nothing.
        model: address of its weights where that is known. Empty: the recipe's name of the model.
    """
    if isinstance(teacher, VllmTeacher):
        return content_hash(model or teacher.model, teacher.engine.model_dump(), teacher.replicas, teacher.gpu)
    return content_hash(teacher.kind, teacher.name)


class GenerateConfig(Section):
    """How teachers are asked for traces."""

    stop_early: bool = Field(default=True, json_schema_extra=EXTENT)
    """A prompt is asked again only while it is unsolved, and a teacher is asked only for prompts that all cheaper
    teachers of its mixes solved. Off: every teacher writes `num_samples` traces for every prompt."""
    enough_prompts: int | None = Field(default=None, ge=1, json_schema_extra=EXTENT)
    """Stop once this many prompts are solved by every pool that the mixes draw from. Absent: ask for all prompts."""
    max_attempts: int = Field(default=3, ge=1, json_schema_extra=NOTHING)
    """Attempts of a request, and of a batch whose engine died, before it is recorded as failed."""
    flush_s: float = Field(default=1.0, gt=0, json_schema_extra=NOTHING)
    """Longest time that a graded trace is only in memory, before it is written to disk, seconds."""
    startup_deadline_s: float = Field(default=1800.0, gt=0, json_schema_extra=NOTHING)
    """Longest wait for a teacher's first engine, seconds: it may download weights and compile kernels. The same limit
    applies to a later silence of all engines, to nodes that an autoscaler must add before cells can be trained, and to
    new ones for cells whose node has left, while no other cell runs."""
