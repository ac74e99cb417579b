"""The rows that flow between stages: one frozen type each, its Arrow schema derived from it.

Every identity is a content hash, made before the row exists, so that a reordered, extended or partly changed input
re-does only what is new.
"""

import dataclasses
import hashlib
import json
import re
import types
import typing
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import groupby
from typing import Any

import pyarrow as pa


class Verdict(StrEnum):
    """What the verifier found. ERROR means "could not tell": kept and counted, never trained on, never scored 0."""

    CORRECT = "CORRECT"
    INCORRECT = "INCORRECT"
    NO_ANSWER = "NO_ANSWER"
    ERROR = "ERROR"


def is_teachable(verdict: str, finish_reason: str) -> bool:
    """Whether a trace is correct and not cut by the token limit: only such a trace may be taught."""
    return verdict == Verdict.CORRECT and finish_reason != "length"


class AnswerKind(StrEnum):
    """How a reference answer is compared."""

    NUMBER = "number"
    MATH = "math"
    CHOICE = "choice"
    TEXT = "text"
    REASONING_GYM = "reasoning_gym"
    INSTRUCTIONS = "instructions"
    """By rules: whether the answer follows every instruction of the problem that rules can check."""
    REFUSAL = "refusal"
    """Whether a harmless question is answered; a refusal is INCORRECT."""


WITHOUT_REFERENCE = frozenset({AnswerKind.REASONING_GYM, AnswerKind.INSTRUCTIONS, AnswerKind.REFUSAL})
"""Kinds whose answers are judged without a reference."""


class Style(StrEnum):
    """How a teacher reasons."""

    LONG = "long"
    SHORT = "short"


class ReferenceOrigin(StrEnum):
    """Where a reference answer is from."""

    COLUMN = "column"
    """The data set, or the generator of the problem."""
    BOX = "box"
    """A trace about the problem: what its last box holds."""
    MAJORITY = "majority"
    """Traces about the problem: what more than half of them box."""


# Producer: prompts. Consumers: generate, mix, evaluate.
@dataclass(frozen=True)
class Prompt:
    """One question with its reference answer."""

    prompt_id: str
    problem: str
    reference: str
    answer_kind: str
    source: str
    level: str
    subject: str
    entry: str
    """JSON of what the scorer needs beyond the reference (a reasoning-gym entry with its task, instructions with their
    arguments), or empty."""
    reference_origin: str = ReferenceOrigin.COLUMN
    """Where the reference is from: a `box` or a `majority` is as good as the traces that it was taken from."""
    language: str = ""
    """Code of the language that it is in; empty where none was given."""


# Producer: generate (which verifies as it streams); the judge's columns: verify. Consumers: verify, mix, report.
@dataclass(frozen=True)
class Trace:
    """One teacher's complete output for one prompt, with the verdict on it."""

    trace_id: str
    prompt_id: str
    pool: str
    style: str
    fingerprint: str
    sample_index: int
    seed: int
    completion: str
    reasoning: str
    answer: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    sampling: str
    engine: str
    attempts: int
    verdict: str
    extracted: str
    rule: str
    verifier: str
    detail: str
    judge_verdict: str = ""
    """What an LLM judge said of a trace that the rules reject; never counted as `verdict`. Empty: no judgement."""
    judge: str = ""
    """Model, instructions and options that judged."""
    judge_detail: str = ""
    """The judge's words, or why there is no judgement."""
    parent: str = ""
    """The trace that its teacher read; empty where it read none."""
    given: int = 0
    """Characters at its beginning that its teacher did not write but continued."""
    growth: float = 0.0
    """Its characters over those of its parent; 0 where it has none."""
    graded_against: str = ""
    """Identity of what it was graded against (`reference_identity`); empty where that was not kept."""


# Producer: verify. Consumers: mix, report. The traces without their texts: policies choose from this index.
@dataclass(frozen=True)
class IndexRow:
    """One verified trace as a policy sees it."""

    trace_id: str
    prompt_id: str
    pool: str
    style: str
    fingerprint: str
    sample_index: int
    verdict: str
    rule: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    given: int = 0
    """Characters at its beginning that its teacher did not write but continued."""
    drop: str = ""
    """Why no mix may use an edit, whatever its verdict; empty where one may."""


@dataclass(frozen=True)
class Message:
    """One chat turn."""

    role: str
    content: str


# Producer: mix. Consumer: train. The trainer knows nothing of mixing: it sees these rows only.
@dataclass(frozen=True)
class Example:
    """What a student sees: chat turns, of which the last is the one it learns."""

    trace_id: str
    prompt_id: str
    mix: str
    pool: str
    style: str
    messages: list[Message]
    template_options: str = ""
    """JSON object of the chat template's variables for this row; empty: none."""
    phase: int = 0
    """Rows of phase 0 are taught first; all 0 where the order does not matter."""
    place: int = 0
    """The prompt's rank in the order that the policy cut into pools: why it took this one."""
    given: int = 0
    """Characters at the beginning of the completion, behind its opening, that the student does not learn."""
    opening: int = 0
    """Characters at the beginning of the last turn that say the mode, where the student writes it itself."""
    side: str = ""
    """`chosen` or `rejected`, of a pair: its two rows follow one another in this order. Empty: the row stands alone."""


# Producer: evaluate. Consumer: report.
@dataclass(frozen=True)
class Score:
    """One model's graded completion of one benchmark prompt."""

    model: str
    benchmark: str
    prompt_id: str
    sample_index: int
    completion: str
    verdict: str
    extracted: str
    rule: str
    detail: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    seed: int
    """The request's seed."""
    repetition: float
    """Share of the completion's 8-word runs that occur earlier in it."""
    string_match: str
    """The verdict of the plain string comparison of older work, for comparison with its numbers; never counted.
    Empty: it has no rule for this kind of answer, or there is no answer."""
    judge_verdict: str = ""
    """What an LLM judge said of an answer to a question that might be refused; never counted as `verdict`. Empty: no
    judgement."""
    judge: str = ""
    """Model, instructions and options that judged."""
    judge_detail: str = ""
    """The judge's words, or why there is no judgement."""
    reasoning_language: str = ""
    """Language of most of the reasoning, looked at where the prompt has a language; empty where too few words tell."""
    answer_language: str = ""
    """The same of the answer behind the reasoning."""
    told_letters: int = 0
    """Size of the reasoning's text whose language was told: UTF-8 bytes of its letters."""
    own_letters: int = 0
    """Of that what is in the prompt's language."""


# Producer: every stage that drops rows. Consumer: report. Nothing is dropped without one of these.
@dataclass(frozen=True)
class Dropped:
    """A row that did not go on, and why."""

    stage: str
    where: str
    reason: str
    detail: str
    row: str
    """JSON of the row, cut at 2,000 characters."""


ARROW_TYPES: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _arrow_type(annotation: Any) -> pa.DataType:
    if dataclasses.is_dataclass(annotation):
        return pa.struct([(field.name, _arrow_type(field.type)) for field in dataclasses.fields(annotation)])
    if isinstance(annotation, types.GenericAlias):
        return pa.list_(_arrow_type(typing.get_args(annotation)[0]))
    return ARROW_TYPES[annotation]


def arrow_schema(row_type: type) -> pa.Schema:
    """The explicit Arrow schema of a row type: a shard whose column is all empty still has the column's type."""
    return pa.schema([(field.name, _arrow_type(field.type)) for field in dataclasses.fields(row_type)])


def with_defaults(table: pa.Table, row_type: type, columns: Sequence[str]) -> pa.Table:
    """The columns of a table that was written before some of them came: those have the row type's default."""
    if set(columns) <= set(table.schema.names):
        return table
    schema = arrow_schema(row_type)
    for field in dataclasses.fields(row_type):
        if field.name in set(columns) - set(table.schema.names) and field.default is not dataclasses.MISSING:
            value = pa.scalar(field.default, schema.field(field.name).type)
            table = table.append_column(schema.field(field.name), pa.repeat(value, len(table)))
    return table


def content_hash(*parts: object) -> str:
    """16 hex digits that identify the parts; JSON with sorted keys, so equal values give equal hashes."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


MEANINGFUL_FORMS = ("<super>", "<sub>", "<fraction>", "<circle>")
"""Forms of a character that Unicode calls compatible with the plain one and that mean something else: 3⁴ is not 34,
and 3½ is not 31/2."""


@lru_cache(maxsize=4096)
def _form(character: str) -> str:
    tag = unicodedata.decomposition(character).partition(" ")[0]
    return tag if tag in MEANINGFUL_FORMS else ""


def fold_compatible(text: str, marks: Mapping[str, str] | None = None) -> str:
    """Unicode NFKC, but for the forms that mean something else.

    `marks`: form -> what is put before its characters, which are then folded as well: `^` makes 3^4 of 3⁴.
    """
    if text.isascii():
        return text
    runs = [(form, "".join(run)) for form, run in groupby(text, key=_form)]
    return "".join(run if form and not marks else _marked(form, run, marks or {}) for form, run in runs)


def _marked(form: str, run: str, marks: Mapping[str, str]) -> str:
    return marks.get(form, "") + unicodedata.normalize("NFKC", run)


def normalise_problem(problem: str) -> str:
    """The problem as its identity sees it: compatible characters and white space folded, case kept (variables differ
    by case)."""
    return re.sub(r"\s+", " ", fold_compatible(problem)).strip()


def prompt_id(problem: str) -> str:
    """Identity of a prompt: its normalised problem."""
    return content_hash("prompt", normalise_problem(problem))


def trace_id(source: str, fingerprint: str, sample_index: int) -> str:
    """Identity of a trace, known before it is generated. `source`: its prompt, or the trace that it is an edit of."""
    return content_hash("trace", source, fingerprint, sample_index)


def seed_for(*parts: object) -> int:
    """A request's own seed in [0, 2^31), from what identifies it."""
    return int(content_hash("seed", *parts), 16) % 2**31


def dropped(stage: str, where: str, reason: str, *, detail: str = "", row: Mapping[str, Any] | None = None) -> Dropped:
    """A counted drop, with as much of the row as is useful to look at."""
    try:
        text = json.dumps(dict(row or {}), ensure_ascii=False, default=str)[:2000]
    except RecursionError:
        text = ""
    text = text.encode(errors="replace").decode()  # half a surrogate pair cannot be written
    return Dropped(stage=stage, where=where, reason=reason, detail=detail[:2000], row=text)
