"""The config tree: what a recipe can say. Frozen, extra keys forbidden, every field with its unit and bound.

This module and `distill.recipe` import no ray, torch or vllm, so `--help` and config tests stay instant.
Illegal combinations across sections are found in `distill.recipe`, all of them in one go.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.kuberay.config import KubernetesConfig
from distill.config_forecast import ForecastConfig
from distill.config_mix import FiltersConfig, MergeConfig, MixConfig
from distill.config_search import SearchConfig
from distill.config_section import GpuName, Name, Section, Share
from distill.config_sources import PromptSource
from distill.config_teachers import ChatFormat, EngineConfig, GenerateConfig, GreedySampling, TeacherConfig
from serve.limits import Limits
from serve.plans import Speculation


class ModelConfig(Section):
    """A model by reference."""

    sources: tuple[str, ...] = Field(min_length=1)
    """Where the weights are, tried in order: a hub id, a local folder, a `.gguf` file, any fsspec URI of a folder, or
    `package://NAME` for an installed package that carries one GGUF file."""
    revision: str = "main"
    """Hub revision (branch, tag or commit)."""
    keep_layers: int | None = Field(default=None, ge=1)
    """Cut the model to this many decoder layers, evenly spaced, first and last kept. Absent: the model as it is."""
    context_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt plus completion the model takes, tokens. Absent: what its config.json says."""
    chat_template: str | None = None
    """Jinja chat template for a model that has none."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""


class PromptsConfig(Section):
    """The training prompts."""

    sources: tuple[PromptSource, ...] = Field(min_length=1)
    """Where prompts come from; all are read, duplicates removed."""
    num_prompts: int | None = Field(default=None, ge=1)
    """Keep at most this many, chosen by a seeded hash of the problem. Absent: all."""
    max_problem_chars: int = Field(default=20_000, ge=1)
    """A longer problem is dropped (and counted), characters."""
    near_duplicates: float = Field(default=0.9, ge=0.0, le=1.0)
    """A prompt that is at least this alike to another one is dropped: Jaccard similarity, 0 to 1, of their runs of
    three words, where numbers, mathematical signs and the answer are the same. Below 0.6 some are not found. 0: off."""
    decontaminate_ngram: int = Field(default=13, ge=0, le=100)
    """A prompt is dropped that says the same as a problem of a benchmark: such runs of words, numbers and signs of this
    length as they share cover half of the shorter one, and all numbers of one stand in the other; or the two are equal
    as a whole. A run that is half wording of the task is no evidence: wording is what more than 1 % of the prompts, and
    more than 20, share. 0: off."""


class JudgeConfig(Section):
    """A language model that looks at the traces the rules reject. Its verdict is kept beside theirs, never merged."""

    base_url: str = Field(pattern=r"^https?://[^\s@]+$")
    """OpenAI-compatible endpoint up to and with `/v1`; no credentials in it."""
    model: str = Field(min_length=1)
    """Name of the model there."""
    api_key_env: str = Field(default="", pattern=r"^[A-Za-z_0-9]*$")
    """Environment variable that holds the key. Empty: the endpoint needs none."""
    max_in_flight: int = Field(default=8, ge=1)
    """Requests open at once."""
    max_retries: int = Field(default=4, ge=0, le=20)
    """Further tries of one request after a dropped connection, a time-out or a 408, 409, 429 or 5xx answer."""
    timeout_s: float = Field(default=120.0, gt=0, le=3600)
    """Longest time of one try, seconds."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest reply, tokens; reasoning included."""
    max_unanswered: int = Field(default=16, ge=1)
    """Requests in a row that may fail before the rest is left without a judgement."""


class VerifyConfig(Section):
    """The verifier."""

    deadline_s: float = Field(default=2.0, gt=0, le=600)
    """Longest time for one answer, seconds; over it the verdict is ERROR."""
    memory_mb: int = Field(default=1024, ge=64)
    """Memory of one verifier process beyond its start, MiB."""
    num_workers: int = Field(default=1, ge=1)
    """Verifier processes per engine."""
    judge: JudgeConfig | None = None
    """Judge of the traces that the rules reject. Absent: none."""


class LoraTune(Section):
    """Low-rank adapters (peft)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    targets: str | tuple[str, ...] = "all-linear"
    """Module names, or `all-linear`."""
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    """Peak learning rate."""


class FullTune(Section):
    """All weights."""

    kind: Literal["full"] = "full"
    learning_rate: float = Field(default=1e-5, gt=0, le=1)
    """Peak learning rate."""


Tune = Annotated[LoraTune | FullTune, Field(discriminator="kind")]


class StudentConfig(Section):
    """A model that is trained."""

    ADDED_LATER = ("gpu", "base_of")

    name: Name
    model: str
    """A key of `[models]`."""
    base_of: Name | None = None
    """The student that was made from this one by instruction tuning: the report sets the gaps of the two side by side.
    Absent: none is."""
    tune: Tune = FullTune()
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows of full length per forward pass and worker. Rows are laid end to end without padding, and shorter ones fill
    the room as they fit; an optimiser step has the same rows whatever this is. Absent: chosen from the model's size,
    the length and the memory, as are the three below; `distill plan` shows what is chosen."""
    zero_stage: int | None = Field(default=None, ge=0, le=3)
    """DeepSpeed ZeRO stage: what the workers share among them. One worker alone has nothing to share: 0 is quickest."""
    checkpoint_activations: bool | None = None
    """Compute activations again in the backward pass rather than keep them: less memory, a third more time."""
    offload_optimizer: bool | None = None
    """Keep the optimiser's state in main memory (needs `zero_stage` 1 or more). Never chosen unasked."""
    num_workers: int = Field(default=1, ge=1)
    """Data-parallel workers (GPUs on a GPU cluster)."""
    max_workers: int | None = Field(default=None, ge=1)
    """A cell that starts when no other waits takes free workers up to this many. Absent: never more than
    `num_workers`."""
    priority: int = Field(default=0, ge=-100, le=100)
    """Cells of a student with a higher one start first and are not delayed by others."""
    gpu: GpuName = ""
    """Kind of GPU that its workers must have, as Ray names it, for example `H100`. Not read on CPUs. Absent: any."""


class TrainConfig(Section):
    """One optimiser budget for every arm: arms that would take different numbers of steps are refused."""

    ADDED_LATER = ("early_prompts", "trackers", "tracking_uri", "held_out_prompts")

    budget: Literal["epochs", "steps", "tokens"] = "epochs"
    """What is the same for every arm: passes over its rows; optimiser steps of `batch_size` rows, whatever the arm
    holds; or supervised tokens and steps both, each step taking as many rows as make up its share of the tokens."""
    num_epochs: int = Field(default=2, ge=1)
    """Passes over the rows; for the budget `epochs`."""
    num_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps of every cell; for the budgets `steps` and `tokens`."""
    num_tokens: int | None = Field(default=None, ge=1)
    """Supervised tokens of every cell; for the budget `tokens`."""
    unmatched: bool = False
    """Allow arms with different numbers of optimiser steps, which no comparison between them is fair with."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per optimiser step, over all workers."""
    max_length: int = Field(default=4096, ge=8)
    """Longest prompt plus completion, tokens. A longer example is dropped and counted, never cut."""
    warmup_ratio: Share = 0.1
    """Share of the steps over which the learning rate rises; then it falls as a cosine."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Training seeds (row order, initial adapter): every student x mix is trained once with each."""
    checkpoint_every_steps: int = Field(default=50, ge=1)
    """Optimiser steps between checkpoints."""
    max_failures: int = Field(default=2, ge=0)
    """How often one cell is restarted from its last checkpoint."""
    max_parallel_cells: int | None = Field(default=None, ge=1)
    """Cells trained at once. Absent: as many as the cluster holds."""
    early_prompts: int | None = Field(default=None, ge=1)
    """Begin training when the teachers are done with this many prompts, the first in the seeded order, on machines that
    they leave free, while they still write for the rest. Every cell takes the rows of these prompts first, whenever it
    begins, so that its result does not depend on the clock. Needs the budget `steps` and arms whose rows do not depend
    on prompts still to come (`single`, `both`, `weighted` with `assign = "threshold"`). Absent: after generation."""
    held_out_prompts: int | None = Field(default=None, ge=1)
    """Common prompts that no arm teaches. Every cell's loss on their traces is measured before and after its training,
    pool by pool: what is left to see where accuracy is at the floor. Absent: none."""
    trackers: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """Where the steps' values are shown beside `metrics.jsonl`: TensorBoard files in every cell's folder, MLflow (extra
    `mlflow`)."""
    tracking_uri: str = Field(default="", pattern=r"^[^@\s]*$")
    """MLflow's; without credentials, which it reads from the environment. Absent: the folder `mlruns` of the run."""


class BenchmarkConfig(Section):
    """A held-out prompt set. Other languages and multiple choice are a matter of `source.columns`."""

    ADDED_LATER = ("template",)

    source: PromptSource
    num_prompts: int | None = Field(default=None, ge=1)
    """Keep at most this many, by seeded hash. Absent: all."""
    template: str | None = None
    """What its problems are asked with, `{problem}` where the problem goes; `student_chat` comes around it. Absent: the
    problem as it is."""


class RepeatedConfig(Section):
    """A benchmark whose problems are asked several times each (avg@k), as small ones need it."""

    num_samples: int = Field(ge=2, le=1024)
    """Completions per problem."""
    temperature: float = Field(default=0.6, gt=0.0, le=2.0)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    """Nucleus mass."""


class SpeculativeArm(Section):
    """An arm of the evaluation that needs no training: a student whose hard steps another model of the run writes.

    Triggers count in the answer too: an evaluation keeps no reasoning apart.
    """

    student: str
    """`student@mix`, or `student@mix:mode`, as the report names it."""
    helper: Speculation
    """`model`: who helps, `student` or `student@mix`; how much, and at which words."""

    @property
    def suffix(self) -> str:
        """What the student's name has behind it where it is helped."""
        return f"+{self.helper.model}"


class EvaluateConfig(Section):
    """How models are scored."""

    ADDED_LATER = ("repeated", "speculative")

    benchmarks: tuple[str, ...] = Field(min_length=1)
    """Names in `[benchmarks]`, or built-in ones."""
    sampling: GreedySampling = GreedySampling()
    num_samples: int = Field(default=1, ge=1)
    """Completions per prompt; more than one needs a temperature above 0."""
    repeated: dict[str, RepeatedConfig] = Field(default={})
    """Benchmarks that are asked otherwise than `num_samples` times with `sampling`: how often and how warm. Length and
    stop strings stay those of `sampling`."""
    max_in_flight: int = Field(default=64, ge=1)
    """Requests open at once per run."""
    reasoning_end: str = "</think>"
    """What closes the reasoning; the answer is taken after its last occurrence."""
    speculative: tuple[SpeculativeArm, ...] = ()
    """Arms of speculative thinking, scored after the others with both engines up."""


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


class Recipe(Section):
    """Everything that defines a run."""

    ADDED_LATER = ("merges", "search", "kubernetes")

    name: Name
    description: str = ""
    seed: int = Field(default=17, ge=0)
    """Root of every random choice but the training seeds."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: gpu where the cluster has one."""
    models: dict[str, ModelConfig] = Field(min_length=1)
    prompts: PromptsConfig
    teachers: tuple[TeacherConfig, ...] = Field(min_length=1)
    generate: GenerateConfig = GenerateConfig()
    verify: VerifyConfig = VerifyConfig()
    filters: FiltersConfig = FiltersConfig()
    mixes: tuple[MixConfig, ...] = Field(min_length=1)
    """The arms; `policy` says how one chooses, `weighted` where it is not said."""
    search: SearchConfig | None = None
    """How weights are found for arms with `weights = "auto"`."""
    merges: tuple[MergeConfig, ...] = ()
    """Further arms, of merged students."""
    students: tuple[StudentConfig, ...] = Field(min_length=1)
    student_chat: ChatFormat = ChatFormat()
    """How students are asked, in training and in evaluation alike."""
    train: TrainConfig = TrainConfig()
    benchmarks: dict[str, BenchmarkConfig] = Field(default={})
    evaluate: EvaluateConfig
    serve: ServeSection = ServeSection()
    kubernetes: KubernetesConfig | None = None
    """Where it runs on Kubernetes; read by `--write-manifest` only."""
    forecast: ForecastConfig = ForecastConfig()
    """What `distill plan` assumes; no part of the run."""

    @property
    def arms(self) -> tuple[str, ...]:
        """What a student is scored as beside its untouched self: every mix, once per mode, and every merge."""
        return tuple(arm for one in (*self.mixes, *self.merges) for arm in one.arms)

    def takes(self, student: str, arm: str) -> bool:
        """Whether a student is trained on a mix, or can be merged from students that are."""
        parents = {parent for merge in self.merges if merge.name == arm for parent in merge.of} or {arm}
        return all(not mix.students or student in mix.students for mix in self.mixes if mix.name in parents)
