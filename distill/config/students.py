"""Students, and how they are tuned."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from distill.config.base import GpuName, Name, Section, _section, one_of
from distill.core.errors import Problem


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


def _length_problems(raw: Mapping[str, Any], students: Sequence[StudentConfig]) -> Iterator[Problem]:
    train, models = _section(raw, "train"), _section(raw, "models")
    max_length = train.get("max_length", 4096)
    for student in students:
        model = models.get(student.model)
        context = model.get("context_tokens") or _local_context(model) if isinstance(model, dict) else None
        if isinstance(context, int) and isinstance(max_length, int) and max_length > context:
            what = f"train.max_length {max_length} is longer than the context of {student.model!r}, {context} tokens"
            yield Problem(f"students[{student.name}]", what, f"set train.max_length to at most {context}")
    if "{problem}" not in str(_section(raw, "student_chat").get("template", "{problem}")):
        yield Problem("student_chat.template", "does not contain {problem}", "say where the problem goes")


def _local_context(model: Mapping[str, Any]) -> int | None:
    """Context of a model that is a local folder, from its config.json; None where it cannot be known yet."""
    for source in model.get("sources", ()):
        config = Path(str(source)) / "config.json"
        if config.is_file():
            value = json.loads(config.read_text()).get("max_position_embeddings")
            return value if isinstance(value, int) else None
    return None


def _batch_problems(raw: Mapping[str, Any], student: StudentConfig) -> Iterator[Problem]:
    micro = student.micro_batch_size or 1
    batch_size, rows = _section(raw, "train").get("batch_size", 16), micro * student.num_workers
    if isinstance(batch_size, int) and batch_size > 0 and batch_size % rows:
        factors = f"micro_batch_size {micro} x num_workers {student.num_workers}"
        what = f"train.batch_size {batch_size} is not a multiple of {factors}"
        yield Problem(f"students[{student.name}]", what, f"use a batch size that {rows} divides")


def _layout_problems(student: StudentConfig) -> Iterator[Problem]:
    where = f"students[{student.name}]"
    if student.max_workers is not None and student.max_workers < student.num_workers:
        what = f"max_workers {student.max_workers} is less than num_workers {student.num_workers}"
        yield Problem(where, what, "raise max_workers or leave it out")
    if student.offload_optimizer and student.zero_stage == 0:
        yield Problem(where, "offload_optimizer needs ZeRO, and zero_stage is 0", "set zero_stage to 1, 2 or 3")


def _base_problems(students: Sequence[StudentConfig], names: Sequence[str]) -> Iterator[Problem]:
    """A base of no student, of itself, of another base, or of one that is trained from the very same weights."""
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
            yield Problem(where, what, "give one of them the model before, the other the one after tuning")
