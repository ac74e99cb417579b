"""Who writes and who scores the rollouts of a cell: what the driver sends to its tasks and workers."""

from __future__ import annotations

from dataclasses import dataclass

from distill.config.teachers import ChatFormat, EngineConfig


@dataclass(frozen=True)
class Scorer:
    """A teacher that says how likely the student's tokens are, each after the prompt that it is asked itself."""

    name: str
    model: str
    """Address of its weights."""
    identity: str
    chat: ChatFormat


@dataclass(frozen=True)
class RolloutPlan:
    """What is done before a cell that matches its teachers can be trained."""

    student: str
    """Address of the weights that write, with an adapter merged into them: our own scorer's."""
    engine: EngineConfig
    scorers: tuple[Scorer, ...]
    scores_all: bool
    """Whether the one scorer compares all rows; otherwise each those of its pool."""

    def pool_of(self, scorer: Scorer) -> str | None:
        """The pool whose rows a teacher scores; None: all rows."""
        return None if self.scores_all else scorer.name
