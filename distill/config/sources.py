"""Config of sources of rows: files, Hugging Face data sets, generated problems."""

import math
import re
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from cluster.storage import is_uri
from distill.config.base import Name, Section, section_of
from distill.config.decides import EXTENT, IF_SET, NOTHING
from distill.core.languages import KNOWN_LANGUAGES
from distill.core.schema import AnswerKind


def _check_pattern(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    if not groups:
        raise ValueError("has no group: put the part that is the problem into (?P<problem>...)")
    return pattern


Pattern = Annotated[str, AfterValidator(_check_pattern)]


def _check_scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("no value to compare with: a text, a number, true or false; a date goes into quotes")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no row has this number")
    return value


def _check_values(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("no row has one of no values: name at least one, or leave the condition out")
    return values


def _check_named(column: Any) -> Any:
    if not column:
        raise ValueError("names no column")
    return column


def _check_language(code: str) -> str:
    if code not in KNOWN_LANGUAGES:
        known = f"{len(KNOWN_LANGUAGES)} codes of ISO 639, as de, en, es, fr, ja, zh (docs/suites.md)"
        raise ValueError(f"the detector knows no such language; it knows {known}")
    return code


Language = Annotated[str, AfterValidator(_check_language)]
"""A code of ISO 639, as `de`."""
Column = Annotated[str, AfterValidator(_check_named)]
ColumnList = Annotated[tuple[Column, ...], AfterValidator(_check_named)]
Scalar = Annotated[bool | int | float | str, BeforeValidator(_check_scalar)]
Values = Annotated[tuple[Scalar, ...], AfterValidator(_check_values)]


class Range(Section):
    """Bounds of a number, both included."""

    min: float | None = None
    """The smallest value. Absent: no bound."""
    max: float | None = None
    """The largest value. Absent: no bound."""

    @model_validator(mode="after")
    def _holds_a_number(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a range needs `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"no number is at least {self.min:g} and at most {self.max:g}: exchange `min` and `max`")
        return self


CONDITION_TAGS = ("<value>", "<values>", "<range>")
"""What pydantic puts into a location for the form of a condition; no part of the recipe's own path."""


def _form(condition: Any) -> str:
    if isinstance(condition, dict | Range):
        return CONDITION_TAGS[2]
    return CONDITION_TAGS[1] if isinstance(condition, list | tuple) else CONDITION_TAGS[0]


Condition = Annotated[
    Annotated[Scalar, Tag(CONDITION_TAGS[0])]
    | Annotated[Values, Tag(CONDITION_TAGS[1])]
    | Annotated[Range, Tag(CONDITION_TAGS[2])],
    Discriminator(_form),
]
Where = dict[Column, Condition]
"""Column -> the value, one of several values, or the range that its rows must have."""


class Columns(Section):
    """The columns of a data file. A column may be a path into nested ones, with dots: `reward_model.ground_truth`,
    `messages.0.content`, also into a column whose text is JSON. A column of chat turns stands for what is in them."""

    problem: Column = "problem"
    """The question. Of a column of chat turns: the user turn."""
    problem_pattern: Pattern | None = Field(default=None, json_schema_extra=IF_SET)
    """Regular expression that takes fixed text around a problem off: its group `problem`, or else its first group, is
    the problem. Rows that it does not match are dropped, and counted. A dot matches line breaks too."""
    reference: Column = "answer"
    """The reference answer. GSM8K's `... #### value` is reduced to the value."""
    reference_from: Literal["box", "majority"] | None = Field(default=None, json_schema_extra=IF_SET)
    """Absent: the reference column holds the answer. `box`: it holds a trace (text, chat
    turns, or a list of either), and what its last `\\\\boxed{}` holds is taken as the answer; of a list, the first
    trace's. `majority`: the same, but the answer that more than half of all traces of a problem agree on, at least
    two, over all rows of the source. Such references are no better than the traces; prompts say where theirs is
    from."""
    correct: Column | None = Field(default=None, json_schema_extra=IF_SET)
    """With `box` and `majority`: column that says whether a trace is correct, or one value per trace. Traces that it
    calls wrong give no reference."""
    level: str = "level"
    """Difficulty label; may be absent."""
    subject: str = "subject"
    """Topic label; may be absent."""
    context: Column | None = Field(default=None, json_schema_extra=IF_SET)
    """Column with text that precedes the question, where a row has it (SVAMP's `Body`)."""
    choices: Column | ColumnList | None = Field(default=None, json_schema_extra=IF_SET)
    """Multiple choice: the column with the list of options (or with `{ text, label }` lists, or a table of label to
    text), or one column per option. They are listed as A), B), ... below the question. Columns whose names end in A,
    B, C, ... (`opa`, `en_B`) are listed in that order, and rows may lack the last of them; options in other columns are
    listed in an order that the problem's hash decides. The reference may be a label, a letter, an index from 0, or an
    option's text. Rows whose reference is the letter of one option and the text of another are dropped, and counted,
    unless `choice_index` decides."""
    choice_index: Column | None = Field(default=None, json_schema_extra=IF_SET)
    """With `choices`: column with the index of the right option, from 0. It decides where a row has it; rows whose
    reference is another option are dropped, and counted. The column of the reference itself may be named: then it holds
    indices and nothing else."""
    language: Column | None = Field(default=None, json_schema_extra=IF_SET)
    """Column with the code of a row's language (`de`), where rows differ. Absent, or empty in a row: the source's
    `language`."""
    answer_kind: Column | None = Field(default=None, json_schema_extra=IF_SET)
    """Column with the kind of a row's answer, where rows differ, as our own exports have it. Absent, or empty in a
    row: the source's `answer_kind`."""
    entry: Column | None = Field(default=None, json_schema_extra=IF_SET)
    """Column with the reasoning-gym entry of a row, or its instructions, as our own exports have it: they are needed to
    judge an answer."""
    instructions: Column | None = Field(default=None, json_schema_extra=IF_SET)
    """With answers of the kind `instructions`: column with the list of a row's instructions, named as IFEval names
    them (`length_constraints:number_words`). Absent: `instruction_id_list`, IFEval's own."""
    arguments: Column | None = Field(default=None, json_schema_extra=IF_SET)
    """Column with the list of their arguments, a table for each. Absent: `kwargs`, IFEval's own."""

    @property
    def has_lettered_choices(self) -> bool:
        """Whether each option has a column whose name ends in the option's letter."""
        if self.choices is None or isinstance(self.choices, str):
            return False
        return all(name.upper().endswith(letter) for name, letter in zip(self.choices, ascii_uppercase, strict=False))

    @model_validator(mode="after")
    def _can_be_voted_on(self) -> Self:
        if self.choices and self.reference_from == "majority":
            raise ValueError("reference_from = 'majority' does not count letters of choices: use 'box', or remove it")
        if self.choice_index and not self.choices:
            raise ValueError("columns.choice_index counts options: name their columns as choices, or remove it")
        if self.correct and not self.reference_from:
            raise ValueError(
                "columns.correct says which traces give a reference: set reference_from = 'box', or remove it"
            )
        return self


class _RowSource(Section):
    """What sources of rows have in common."""

    @model_validator(mode="before")
    @classmethod
    def _choices_are_compared_by_letter(cls, values: Any) -> Any:
        columns = section_of(values, "columns") if isinstance(values, dict) else {}
        return {"answer_kind": AnswerKind.CHOICE, **values} if columns.get("choices") else values

    @model_validator(mode="after")
    def _choices_are_letters(self) -> Self:
        kind, columns = getattr(self, "answer_kind", None), getattr(self, "columns", None)
        if columns and columns.choices and not columns.answer_kind and kind != AnswerKind.CHOICE:
            raise ValueError(f"columns.choices makes letters of the answers, and answer_kind is {kind!r}: remove it")
        return self


class FileSource(_RowSource):
    """Rows of local or remote files: JSON Lines, JSON, CSV, TSV, Parquet or Arrow, also compressed (`.gz`, `.zst`,
    `.bz2`, `.xz`), or a data set that `save_to_disk` wrote."""

    kind: Literal["file"] = "file"
    path: str
    """File, folder or glob; any fsspec URI. Relative paths are relative to the recipe that names them. Of a folder,
    all data files below it are read; they must be of one format. `package://NAME/...` is below an installed Python
    package."""
    columns: Columns = Field(default_factory=Columns)
    """Which column means what."""
    name: Name | None = Field(default=None, json_schema_extra=IF_SET)
    """What `mixes[].sources` calls it; stored with its prompts. Absent: it cannot be named there."""
    where: Where = Field(default={}, json_schema_extra=IF_SET)
    """Only rows with these values: `{ domain = "math", level = [4, 5], solve_rate = { min = 0.1, max = 0.8 } }`. A
    column that is a list has a value if one of its items is it. Other rows are counted. A column that no row has is
    an error."""
    max_rows: int | None = Field(default=None, ge=1, json_schema_extra=EXTENT)
    """Read at most this many rows, from the start of the source and before `where`. Absent: all."""
    answer_kind: AnswerKind = AnswerKind.MATH
    """How answers are compared; with `columns.choices` by letter (`choice`). Without a reference answer:
    `instructions` checks by rules whether an answer follows those of its row, `refusal` whether a harmless question is
    answered."""
    language: Language | None = Field(default=None, json_schema_extra=IF_SET)
    """Code of the language that its problems are in (`de`): the verifier reads decimal commas where that language has
    them, and the report says how much of the reasoning is in it. Absent: not known."""
    licence: str = Field(default="", json_schema_extra=NOTHING)
    """Its licence, for example `cc-by-4.0`; several are joined with `and`. Exported data and published students name
    it, and are refused where it forbids them. Absent: not known."""


class HubSource(_RowSource):
    """Rows of a Hugging Face data set."""

    kind: Literal["hub"] = "hub"
    dataset: str
    """Hub id, for example `openai/gsm8k`, or a local folder."""
    subset: str | None = None
    """Configuration of the data set."""
    split: str = "train"
    """Split name."""
    revision: str = "main"
    """Branch, tag or commit."""
    data_files: tuple[str, ...] = Field(default=(), json_schema_extra=IF_SET)
    """Only these files of the repository, paths or globs, for example `["data/low.jsonl"]`; they become the split.
    Empty: those of the subset and split."""
    streaming: bool = Field(default=False, json_schema_extra=NOTHING)
    """Read rows as they are fetched, and no more than `max_rows`, without keeping the data set on this machine."""
    columns: Columns = Field(default_factory=Columns)
    """Which column means what."""
    name: Name | None = Field(default=None, json_schema_extra=IF_SET)
    """What `mixes[].sources` calls it; stored with its prompts. Absent: it cannot be named there."""
    where: Where = Field(default={}, json_schema_extra=IF_SET)
    """Only rows with these values, as for files."""
    max_rows: int | None = Field(default=None, ge=1, json_schema_extra=EXTENT)
    """Read at most this many rows, from the start of the source and before `where`. Absent: all."""
    answer_kind: AnswerKind = AnswerKind.MATH
    """How answers are compared, as for files."""
    language: Language | None = Field(default=None, json_schema_extra=IF_SET)
    """Code of the language that its problems are in, as for files."""
    licence: str = Field(default="", json_schema_extra=NOTHING)
    """Its licence, as for files. Absent: that of the data set's card where a preset names it."""


class GymSource(Section):
    """Generated problems of reasoning-gym tasks, with their own scorers."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    task: str
    """Name of the task, for example `chain_sum`."""
    name: Name | None = Field(default=None, json_schema_extra=IF_SET)
    """What `mixes[].sources` calls it; stored with its prompts. Absent: it cannot be named there."""
    params: dict[str, Any] = Field(default={})
    """Options of the task, for example `{ min_terms = 2 }`."""
    seed: int = Field(default=0, ge=0)
    """Seed of the problem generator. Benchmarks need another one than training prompts, best more than `size` away:
    problem i of a seed is problem 0 of seed + i in reasoning-gym. Problems that are the same are dropped from the
    prompts, and counted."""
    size: int = Field(default=200, ge=1)
    """Number of problems that are generated, before duplicates are removed."""
    language: Language | None = Field(default=None, json_schema_extra=IF_SET)
    """Code of the language that its problems are in, as for files."""
    level: str | None = Field(default=None, json_schema_extra=IF_SET)
    """What the task tells of every problem that becomes its level, for example `num_terms` of `chain_sum`, or what the
    problem was made with, as `n_people` of `knights_knaves`: arms can choose by it, and the report shows scores by it.
    Absent: no level."""


PromptSource = Annotated[FileSource | HubSource | GymSource, Field(discriminator="kind")]
DataSource = Annotated[FileSource | HubSource, Field(discriminator="kind")]


def source_pattern(source: FileSource, base: Path) -> str:
    """The absolute path or URI of a file source as it is written, for messages; `cluster.storage.matching_files` finds
    its files."""
    is_relative = not is_uri(source.path) and not Path(source.path).expanduser().is_absolute()
    return str(base / source.path) if is_relative else source.path


def kind_of(source: PromptSource) -> AnswerKind:
    """How the answers to a source's problems are compared, where its rows do not say something else."""
    return AnswerKind.REASONING_GYM if isinstance(source, GymSource) else source.answer_kind
