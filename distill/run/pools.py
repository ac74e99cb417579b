"""A pool: a teacher, its model or endpoint, and the fingerprint that names its folder."""

from dataclasses import dataclass

from distill.config.teachers import TeacherConfig


@dataclass(frozen=True)
class Pool:
    """A teacher and what its traces come from."""

    teacher: TeacherConfig
    source: str
    """The model's address, the endpoint's URL or, for a data set or a rule, the model whose tokenizer counts."""
    fingerprint: str
    """Identity of all that decides the traces: a changed teacher is a new pool."""

    @property
    def name(self) -> str:
        """The teacher's name."""
        return self.teacher.name

    @property
    def folder(self) -> str:
        """Name of the pool's folder below `generate/`."""
        return f"{self.teacher.name}-{self.fingerprint}"
