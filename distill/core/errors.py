"""Errors that a user can act on: what failed, where, the values, what to do. Bugs stay ordinary exceptions."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One fault of a recipe or an input."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n    -> {self.remedy}"


class DistillError(Exception):
    """A failure with a remedy: printed without traceback; the command exits with `exit_code`. Picklable."""

    exit_code = 1


class ConfigError(DistillError):
    """A recipe that cannot be run. Lists every problem found, not only the first one."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = "1 problem in the recipe" if count == 1 else f"{count} problems in the recipe"
        return "\n".join([f"{head}:", *(f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1))])


class InputError(DistillError):
    """A file, model or run directory that is missing or not as the recipe describes it."""

    exit_code = 2


class StageError(DistillError):
    """A stage that could not finish. Results on disk are safe; the same command continues from them."""


class FullDiskError(StageError):
    """Something could not be written, since there is no room (`distill.core.full_disk`). In one line."""
