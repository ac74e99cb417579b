"""What decides a result: pool fingerprints, cell identities, score keys, from the declarations of the fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distill.config.teachers import DatasetTeacher, EndpointTeacher, TeacherConfig
from distill.core.schema import content_hash

if TYPE_CHECKING:
    from distill.config.students import StudentConfig
    from distill.config.train import TrainConfig


FINGERPRINTED = ("kind", "chat", "sampling", "engine", "style", "reasoning_end", "columns", "where", "ends_with")
"""What decides a teacher's traces beside its model. Another number of samples or replicas is the same teacher."""


def fingerprint(teacher: TeacherConfig, identity: str) -> str:
    """Everything that decides what a teacher writes: a changed teacher is a new pool, never merged with the old one.

    Args:
        teacher: the teacher.
        identity: of the model behind it: content hash of the weights, address and name, or the data set.
    """
    settings = teacher.model_dump(mode="json", include=set(FINGERPRINTED))
    return content_hash("teacher", identity, settings)


def source_identity(teacher: EndpointTeacher | DatasetTeacher) -> str:
    """What stands for the weights of a teacher that is not ours: its address and name, or its data set."""
    if isinstance(teacher, EndpointTeacher):
        return f"{teacher.base_url} {teacher.remote_model}"
    return teacher.source.model_dump_json()


BUDGET_FIELDS = {"budget", "num_steps", "num_tokens"}


NOT_RESULT = {"max_failures", "max_parallel_cells", "unmatched", "trackers", "tracking_uri"}
"""Settings of `[train]` that change no result of the stage."""


NOT_OF_CELL = {"seeds", "checkpoint_every_steps"}
"""Settings of `[train]` that change no weight of a cell, whose own seed counts."""


NOT_LAYOUT = {"checkpoint_activations", "offload_optimizer", "max_workers", "priority", "gpu", "base_of"}
"""Settings of a student that change no weight and that earlier versions did not have."""


def train_identity(train: TrainConfig) -> dict[str, Any]:
    """What of `[train]` decides the result; where the budget is `epochs`, as it was before there were budgets."""
    left_out = BUDGET_FIELDS if train.budget == "epochs" else {"num_epochs"}
    return train.model_dump(mode="json", exclude=NOT_RESULT | left_out)


def student_identity(student: StudentConfig) -> dict[str, Any]:
    """What of a student decides its weights. A chosen layout counts as the one that was the default: it decides nothing
    but rounding, and a cell that is trained stays so when another cluster has it laid out otherwise."""
    told = student.model_dump(mode="json", exclude=NOT_LAYOUT)
    defaults = {"micro_batch_size": 4, "zero_stage": 1}
    return told | {name: value for name, value in defaults.items() if told[name] is None}
