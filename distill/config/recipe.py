"""The root of the config tree: every section of a recipe. Frozen, unknown keys refused.

Nothing in `distill.config` imports ray, torch or vllm, so `--help` and config tests stay instant. Combinations across
sections that cannot run are found by `distill.config.rules`, all of them at once.
"""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from cluster.kuberay.config import KubernetesConfig
from distill.config.arm_graph import ArmConfig, arms_by_name, students_of
from distill.config.base import Name, Section
from distill.config.benchmarks import BenchmarkConfig, benchmark_config
from distill.config.decides import IF_SET, NOTHING, from_stage
from distill.config.evaluate import EvaluateConfig
from distill.config.forecast import ForecastConfig
from distill.config.mix import FiltersConfig, MergeConfig, MixConfig
from distill.config.models import ModelConfig
from distill.config.pass_order import PassNumbers, pass_numbers
from distill.config.prompt_sets import ArmGroup, arm_groups
from distill.config.prompts import PromptsConfig
from distill.config.question import QuestionConfig
from distill.config.search import SearchConfig
from distill.config.serve import ServeSection
from distill.config.students import StudentConfig
from distill.config.teachers import ChatFormat, GenerateConfig, TeacherConfig
from distill.config.train import TrainConfig
from distill.config.verify import VerifyConfig


class Recipe(Section):
    """Everything that defines a run."""

    name: Name = Field(json_schema_extra=from_stage("report"))
    """Name of the run in the report."""
    description: str = Field(default="", json_schema_extra=from_stage("report"))
    """One sentence about it, shown in the report."""
    seed: int = Field(default=17, ge=0)
    """Root of every random choice but the training seeds."""
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", json_schema_extra=NOTHING)
    """`auto`: gpu where the cluster has one."""
    models: dict[str, ModelConfig] = Field(min_length=1, json_schema_extra=NOTHING)
    """Name -> model; teachers and students refer to it by name."""
    prompts: PromptsConfig
    """The training prompts."""
    teachers: tuple[TeacherConfig, ...] = Field(min_length=1, json_schema_extra=from_stage("generate"))
    """Who writes the traces; each fills the pool of its name."""
    generate: GenerateConfig = Field(default_factory=GenerateConfig, json_schema_extra=from_stage("generate"))
    """How teachers are asked."""
    verify: VerifyConfig = Field(default_factory=VerifyConfig, json_schema_extra=from_stage("verify"))
    """How answers are compared with their references."""
    filters: FiltersConfig = Field(default_factory=FiltersConfig, json_schema_extra=from_stage("mix"))
    """Which correct traces no mix may use."""
    mixes: tuple[MixConfig, ...] = Field(min_length=1, json_schema_extra=from_stage("mix"))
    """The arms that are trained; `policy` is how an arm chooses its traces, by default `weighted`."""
    search: SearchConfig | None = Field(default=None, json_schema_extra=from_stage("search"))
    """How weights are found for arms with `weights = "auto"`."""
    merges: tuple[MergeConfig, ...] = Field(default=(), json_schema_extra=from_stage("train"))
    """Arms that are not trained but merged from trained students."""
    students: tuple[StudentConfig, ...] = Field(min_length=1, json_schema_extra=from_stage("train"))
    """The models that are trained."""
    student_chat: ChatFormat = Field(default_factory=ChatFormat, json_schema_extra=from_stage("mix"))
    """How students are asked, in training and in evaluation alike."""
    train: TrainConfig = Field(default_factory=TrainConfig, json_schema_extra=from_stage("train"))
    """The optimiser budget and everything else about training."""
    benchmarks: dict[str, BenchmarkConfig] = Field(default={}, json_schema_extra=NOTHING)
    """Name -> benchmark, beside the built-in ones (`gsm8k`, `math`, `math500`, `amc23`, `aime24`, `aime25`,
    `olympiadbench`, `svamp`, `mgsm-de` and ten other languages, `anesbench-en`, `anesbench-zh`, `mmlu-pro`)."""
    evaluate: EvaluateConfig = Field(json_schema_extra=from_stage("evaluate"))
    """Which benchmarks are asked, and how."""
    question: QuestionConfig | None = Field(default=None, json_schema_extra=from_stage("report", IF_SET))
    """What the run is to find out; the report answers it first."""
    serve: ServeSection = Field(default_factory=ServeSection, json_schema_extra=from_stage("evaluate"))
    """The students' endpoint, in the evaluation and in `distill serve`."""
    kubernetes: KubernetesConfig | None = Field(default=None, json_schema_extra=NOTHING)
    """Where it runs on Kubernetes; read by `--write-manifest` only."""
    forecast: ForecastConfig = Field(default_factory=ForecastConfig, json_schema_extra=NOTHING)
    """What `distill plan` assumes; no part of the run."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Names a student is scored under beside its untouched self: every mix, once per mode, and every merge."""
        return tuple(arm for one in (*self.mixes, *self.merges) for arm in one.arms)

    @property
    def arm_configs(self) -> dict[str, ArmConfig]:
        """Every mix and merge by its name."""
        return arms_by_name(self.mixes, self.merges)

    @property
    def arm_groups(self) -> tuple[ArmGroup, ...]:
        """The mixes that teach the same prompts, those of earlier passes first."""
        return arm_groups(self.mixes, self.pass_numbers.arms)

    @property
    def pass_numbers(self) -> PassNumbers:
        """In which pass every teacher is asked and every arm is trained."""
        return pass_numbers(self.teachers, self.mixes, self.merges)

    def takes(self, student: str, arm: str) -> bool:
        """Whether a student is trained on a mix, or can be merged from students that are."""
        arms = self.arm_configs
        return bool(students_of(arms[arm], arms, (student,)))

    def takes_all(self, student: str, arms: Iterable[str]) -> bool:
        """Whether a student is scored under every one of these `arms`."""
        return all(self.takes(student, arm.partition(":")[0]) for arm in arms)


def benchmark_configs(recipe: Recipe) -> dict[str, BenchmarkConfig]:
    """The benchmarks that a recipe evaluates, then the one that weights are searched on."""
    searched = [recipe.search.benchmark] if recipe.search else []
    return {name: benchmark_config(recipe.benchmarks, name) for name in (*recipe.evaluate.benchmarks, *searched)}
