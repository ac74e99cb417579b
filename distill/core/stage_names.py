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


def stage_named(name: str | None) -> StageName | None:
    """The stage of a name; None for none.

    Raises:
        InputError: there is none of that name.
    """
    try:
        return StageName(name) if name else None
    except ValueError as error:
        raise InputError(f"there is no stage {name!r} -> {', '.join(StageName)}") from error
