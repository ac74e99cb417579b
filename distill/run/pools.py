"""The pools of a run: each teacher with its model and fingerprint."""

from dataclasses import dataclass

from distill.config.teachers import DatasetTeacher, TeacherConfig
from distill.generate.ask_policy import PoolPlan


@dataclass(frozen=True)
class Pool:
    """A teacher, its model's folder (ours) or address (somebody's), and the fingerprint of both."""

    teacher: TeacherConfig
    source: str
    fingerprint: str

    @property
    def name(self) -> str:
        """The pool has its teacher's name."""
        return self.teacher.name

    @property
    def folder(self) -> str:
        """Name of the pool's folder below `generate/`."""
        return f"{self.teacher.name}-{self.fingerprint}"

    @property
    def plan(self) -> PoolPlan:
        """What the pool wants of every prompt."""
        teacher = self.teacher
        wanted = 1 if isinstance(teacher, DatasetTeacher) else min(teacher.num_correct, teacher.num_samples)
        return PoolPlan(teacher.name, teacher.num_samples, wanted)
