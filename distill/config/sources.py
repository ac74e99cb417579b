"""Where rows come from: files, Hugging Face data sets, generated problems."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.storage import is_address
from distill.config.base import Section
from distill.core.schema import AnswerKind


class Columns(Section):
    """Which column of a data file means what."""

    ADDED_LATER = ("context", "choices")

    problem: str = "problem"
    """The question."""
    reference: str = "answer"
    """The reference answer. GSM8K's `... #### value` is reduced to the value."""
    level: str = "level"
    """Difficulty label; may be absent."""
    subject: str = "subject"
    """Topic label; may be absent."""
    context: str | None = None
    """Text that comes before the question, where a row has it (SVAMP's `Body`)."""
    choices: str | tuple[str, ...] | None = None
    """Multiple choice: the column with the list of options (or with `{ text, label }` lists), or one column per option.
    They are listed as A), B), ... below the question; options that are columns of their own are put into an order that
    the problem's hash decides. The reference may be a letter, a label, a place counted from 0, or an option's text."""


class FileSource(Section):
    """Rows of local or remote JSONL, JSON or Parquet files."""

    kind: Literal["file"] = "file"
    path: str
    """File or glob; any fsspec URI. Relative paths are relative to the recipe."""
    columns: Columns = Columns()
    answer_kind: AnswerKind = AnswerKind.MATH
    """How answers are compared."""


class HubSource(Section):
    """Rows of a Hugging Face data set."""

    kind: Literal["hub"] = "hub"
    dataset: str
    """Hub id, for example `openai/gsm8k`."""
    subset: str | None = None
    """Configuration of the data set."""
    split: str = "train"
    """Split name."""
    revision: str = "main"
    """Pinned revision."""
    columns: Columns = Columns()
    answer_kind: AnswerKind = AnswerKind.MATH
    """How answers are compared."""


class GymSource(Section):
    """Generated problems of reasoning-gym tasks, with their own scorers."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    task: str
    """Name of the task, for example `chain_sum`."""
    params: dict[str, Any] = Field(default={})
    """Options of the task, for example `{ min_terms = 2 }`."""
    seed: int = Field(default=0, ge=0)
    """Seed of the problem generator; benchmarks must use another one than training prompts, better one that is further
    away than `size`: reasoning-gym draws problem i of a seed as problem 0 of seed + i. What is the same problem is
    dropped from the prompts, and counted."""
    size: int = Field(default=200, ge=1)
    """Problems generated before duplicates are removed."""


PromptSource = Annotated[FileSource | HubSource | GymSource, Field(discriminator="kind")]
DataSource = Annotated[FileSource | HubSource, Field(discriminator="kind")]


def source_pattern(source: FileSource, base: Path) -> str:
    """The path or URI of a file source, made absolute; it may hold `*`."""
    is_relative = not is_address(source.path) and not Path(source.path).expanduser().is_absolute()
    return str(base / source.path) if is_relative else source.path
