"""The stages' names. They stand apart from the paths of a run, so that the command line knows them without pyarrow."""

from enum import StrEnum

from distill.core.errors import InputError


class StageName(StrEnum):
    """The stages in their order; each has the folder of its name."""

    PROMPTS = "prompts"
    GENERATE = "generate"
    VERIFY = "verify"
    SEARCH = "search"
    MIX = "mix"
    TRAIN = "train"
    EVALUATE = "evaluate"
    REPORT = "report"


NO_ARM_NAMES = ("traces", "dropped")
"""What the mix stage's own files beside those of the arms are called: a mix of such a name would be written over."""


def stage_named(name: str | None) -> StageName | None:
    """The stage of a name; None for none.

    Raises:
        InputError: there is none of that name.
    """
    try:
        return StageName(name) if name else None
    except ValueError as error:
        raise InputError(f"there is no stage {name!r} -> {', '.join(StageName)}") from error
