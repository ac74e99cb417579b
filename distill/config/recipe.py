"""The config tree: what a recipe can say. Frozen, extra keys forbidden, every field with its unit and bound.

This module and `distill.config.load` import no ray, torch or vllm, so `--help` and config tests stay instant.
Illegal combinations across sections are found in `distill.config.load`, all of them in one go.
"""

from typing import Literal

from pydantic import Field

from cluster.kuberay.config import KubernetesConfig
from distill.config.base import Name, Section
from distill.config.benchmarks import BenchmarkConfig, benchmark_config
from distill.config.evaluate import EvaluateConfig
from distill.config.forecast import ForecastConfig
from distill.config.mix import FiltersConfig, MergeConfig, MixConfig
from distill.config.models import ModelConfig
from distill.config.prompts import PromptsConfig
from distill.config.search import SearchConfig
from distill.config.serve import ServeSection
from distill.config.students import StudentConfig
from distill.config.teachers import ChatFormat, GenerateConfig, TeacherConfig
from distill.config.train import TrainConfig
from distill.config.verify import VerifyConfig


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


def benchmark_configs(recipe: Recipe) -> dict[str, BenchmarkConfig]:
    """The benchmarks that a recipe evaluates, then the one that weights are searched on."""
    searched = [recipe.search.benchmark] if recipe.search else []
    return {name: benchmark_config(recipe.benchmarks, name) for name in (*recipe.evaluate.benchmarks, *searched)}
