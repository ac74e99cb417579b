"""Students, and how they are tuned."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.gpus import GpuName
from distill.config.base import Name, Section, items_of, one_of, section_of
from distill.config.decides import EXTENT, IF_SET, NOTHING, from_stage
from distill.config.models import text_settings
from distill.core.errors import Problem


class LoraTune(Section):
    """Low-rank adapters (peft)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale of the adapters; they are multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the adapters' input."""
    targets: str | tuple[str, ...] = "all-linear"
    """Module names, or `all-linear`."""
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    """Peak learning rate."""

    def targeted(self, modules: Sequence[str]) -> list[str]:
        """Those of some modules, by their dotted names, that get an adapter; matched as peft does."""
        if self.targets == "all-linear":
            return []  # every linear layer but the output layer
        if isinstance(self.targets, str):
            return [name for name in modules if re.fullmatch(self.targets, name)]
        return [name for name in modules if any(f".{name}".endswith(f".{target}") for target in self.targets)]


class FullTune(Section):
    """All weights."""

    kind: Literal["full"] = "full"
    learning_rate: float = Field(default=1e-5, gt=0, le=1)
    """Peak learning rate."""


Tune = Annotated[LoraTune | FullTune, Field(discriminator="kind")]


class StudentConfig(Section):
    """A model that is trained."""

    name: Name
    """Name of the student."""
    model: str = Field(json_schema_extra=EXTENT)
    """A key of `[models]`."""
    base_of: Name | None = Field(default=None, json_schema_extra=from_stage("report", EXTENT))
    """The instruction-tuned student whose base model this one is: the report compares the gaps of the two. Absent: this
    is no base model of another student."""
    tune: Tune = Field(default_factory=FullTune)
    """Which weights are trained: all (`full`) or low-rank adapters (`lora`)."""
    micro_batch_size: int | None = Field(default=None, ge=1, json_schema_extra=IF_SET)
    """Rows of full length per forward pass and worker. Rows are packed into one sequence without padding, more of them
    where they are shorter; an optimiser step has the same rows whatever this is. Absent: chosen from the model's size,
    the length and the memory, as are the three below; `distill plan` shows what is chosen."""
    zero_stage: int | None = Field(default=None, ge=0, le=3, json_schema_extra=IF_SET)
    """DeepSpeed ZeRO stage: what is partitioned over the workers. With one worker, 0 is fastest."""
    checkpoint_activations: bool | None = Field(default=None, json_schema_extra=NOTHING)
    """Activation checkpointing: recompute activations in the backward pass. Less memory, a third more time."""
    offload_optimizer: bool | None = Field(default=None, json_schema_extra=NOTHING)
    """Keep the optimiser's state in host memory (needs `zero_stage` 1 or more). Absent: no."""
    num_workers: int = Field(default=1, ge=1)
    """Data-parallel workers (GPUs on a GPU cluster)."""
    max_workers: int | None = Field(default=None, ge=1, json_schema_extra=NOTHING)
    """A cell that starts while no other waits borrows free workers, up to this many in all. Absent: it has
    `num_workers`."""
    priority: int = Field(default=0, ge=-100, le=100, json_schema_extra=NOTHING)
    """Cells of students with a higher priority start first and are not delayed by others."""
    gpu: GpuName = Field(default="", json_schema_extra=NOTHING)
    """Kind of GPU that its workers need, as Ray names it, for example `H100`. Ignored on CPUs. Absent: any."""


def length_problems(raw: Mapping[str, Any], students: Sequence[StudentConfig]) -> Iterator[Problem]:
    train, models = section_of(raw, "train"), section_of(raw, "models")
    max_length = train.get("max_length", 4096)
    for student in students:
        model = models.get(student.model)
        context = model.get("context_tokens") or _local_context(model) if isinstance(model, dict) else None
        if isinstance(context, int) and isinstance(max_length, int) and max_length > context:
            what = f"train.max_length {max_length} is longer than the context of {student.model!r}, {context} tokens"
            yield Problem(f"students[{student.name}]", what, f"set train.max_length to at most {context}")
    if "{problem}" not in str(section_of(raw, "student_chat").get("template", "{problem}")):
        yield Problem("student_chat.template", "does not contain {problem}", "add {problem} where the problem goes")


def _local_context(model: Mapping[str, Any]) -> int | None:
    """Context of a model in a local folder, from its config.json; None where it is not known yet."""
    for source in items_of(model.get("sources")):
        config = Path(str(source)) / "config.json"
        if config.is_file():
            value = _settings(config).get("max_position_embeddings")
            return value if isinstance(value, int) else None
    return None


def _settings(config: Path) -> Mapping[str, Any]:
    """The settings in a config.json; none where it cannot be read, which is told where the model is opened."""
    try:
        settings = json.loads(config.read_text())
    except (OSError, ValueError):
        return {}
    return text_settings(settings) if isinstance(settings, Mapping) else {}


def batch_problems(raw: Mapping[str, Any], student: StudentConfig) -> Iterator[Problem]:
    micro = student.micro_batch_size or 1
    batch_size, rows = section_of(raw, "train").get("batch_size", 16), micro * student.num_workers
    if isinstance(batch_size, int) and batch_size > 0 and batch_size % rows:
        factors = f"micro_batch_size {micro} x num_workers {student.num_workers}"
        what = f"train.batch_size {batch_size} is not a multiple of {factors}"
        yield Problem(f"students[{student.name}]", what, f"use a batch size that {rows} divides")


def layout_problems(student: StudentConfig) -> Iterator[Problem]:
    where = f"students[{student.name}]"
    if student.max_workers is not None and student.max_workers < student.num_workers:
        what = f"max_workers {student.max_workers} is less than num_workers {student.num_workers}"
        yield Problem(where, what, "raise max_workers or leave it out")
    if student.offload_optimizer and student.zero_stage == 0:
        yield Problem(where, "offload_optimizer needs ZeRO, and zero_stage is 0", "set zero_stage to 1, 2 or 3")


def base_problems(students: Sequence[StudentConfig], names: Sequence[str]) -> Iterator[Problem]:
    """A `base_of` that names no student, the student itself, another base, or one with the same model."""
    models = {student.name: student.model for student in students}
    bases = {student.name: student.base_of for student in students if student.base_of}
    for name, tuned in bases.items():
        where, others = f"students[{name}].base_of", [other for other in names if other not in bases]
        if tuned not in names:
            yield Problem(where, f"no student is called {tuned!r}", one_of(tuned, others))
        elif tuned in bases:
            what = "names the student itself" if tuned == name else f"{tuned!r} is the base of {bases[tuned]!r}"
            yield Problem(where, what, f"name a student that was instruction-tuned; {one_of(tuned, others)}")
        elif models.get(tuned) == models[name]:
            what = f"{tuned!r} is trained from the same model, {models[name]!r}"
            yield Problem(where, what, "set the base model for one of them, the instruction-tuned model for the other")
