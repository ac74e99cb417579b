"""The stages' names. They stand apart from the paths of a run, so that the command line knows them without pyarrow."""

from enum import StrEnum


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
