"""Config of sources of rows: files, Hugging Face data sets, generated problems."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.storage import is_uri
from distill.config.base import Section
from distill.config.decides import IF_SET
from distill.core.schema import AnswerKind


class Columns(Section):
    """The columns of a data file."""

    problem: str = "problem"
    """The question."""
    reference: str = "answer"
    """The reference answer. GSM8K's `... #### value` is reduced to the value."""
    level: str = "level"
    """Difficulty label; may be absent."""
    subject: str = "subject"
    """Topic label; may be absent."""
    context: str | None = Field(default=None, json_schema_extra=IF_SET)
    """Column with text that precedes the question, where a row has it (SVAMP's `Body`)."""
    choices: str | tuple[str, ...] | None = Field(default=None, json_schema_extra=IF_SET)
    """Multiple choice: the column with the list of options (or with `{ text, label }` lists), or one column per option.
    They are listed as A), B), ... below the question; options in separate columns are listed in an order that the
    problem's hash decides. The reference may be a letter, a label, an index from 0, or an option's text."""


class FileSource(Section):
    """Rows of local or remote JSONL, JSON or Parquet files."""

    kind: Literal["file"] = "file"
    path: str
    """File or glob; any fsspec URI. Relative paths are relative to the recipe."""
    columns: Columns = Columns()
    """Which column means what."""
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
    """Branch, tag or commit."""
    columns: Columns = Columns()
    """Which column means what."""
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
    """Seed of the problem generator. Benchmarks need another one than training prompts, best more than `size` away:
    problem i of a seed is problem 0 of seed + i in reasoning-gym. Problems that are the same are dropped from the
    prompts, and counted."""
    size: int = Field(default=200, ge=1)
    """Number of problems that are generated, before duplicates are removed."""


PromptSource = Annotated[FileSource | HubSource | GymSource, Field(discriminator="kind")]
DataSource = Annotated[FileSource | HubSource, Field(discriminator="kind")]


def source_pattern(source: FileSource, base: Path) -> str:
    """The absolute path or URI of a file source as it is written, for messages; `cluster.storage.matching_files` finds
    its files."""
    is_relative = not is_uri(source.path) and not Path(source.path).expanduser().is_absolute()
    return str(base / source.path) if is_relative else source.path
