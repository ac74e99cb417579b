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
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa


class Verdict(StrEnum):
    """What the verifier found. ERROR means "could not tell": kept and counted, never trained on, never scored 0."""

    CORRECT = "CORRECT"
    INCORRECT = "INCORRECT"
    NO_ANSWER = "NO_ANSWER"
    ERROR = "ERROR"


class AnswerKind(StrEnum):
    """How a reference answer is compared."""

    NUMBER = "number"
    MATH = "math"
    CHOICE = "choice"
    TEXT = "text"
    REASONING_GYM = "reasoning_gym"


class Style(StrEnum):
    """How a teacher reasons."""

    LONG = "long"
    SHORT = "short"


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
    """JSON of what the scorer needs beyond the reference (a reasoning-gym entry with its task), or empty."""


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
    """Model and instructions that judged."""
    judge_detail: str = ""
    """The judge's words, or why there is no judgement."""


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


def content_hash(*parts: object) -> str:
    """16 hex digits that identify the parts; JSON with sorted keys, so equal values give equal hashes."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_SCRIPTS = re.compile("([\u00b2\u00b3\u00b9\u2070-\u209c]+)")
"""Superscripts and subscripts: NFKC would make 34 of 3⁴."""


def normalise_problem(problem: str) -> str:
    """The problem as its identity sees it: Unicode NFKC but for superscripts and subscripts, white space folded, case
    kept (variables differ by case)."""
    pieces = _SCRIPTS.split(problem)
    pieces[::2] = [unicodedata.normalize("NFKC", piece) for piece in pieces[::2]]
    return re.sub(r"\s+", " ", "".join(pieces)).strip()


def prompt_id(problem: str) -> str:
    """Identity of a prompt: its normalised problem."""
    return content_hash("prompt", normalise_problem(problem))


def trace_id(prompt: str, fingerprint: str, sample_index: int) -> str:
    """Identity of a trace, known before it is generated."""
    return content_hash("trace", prompt, fingerprint, sample_index)


def seed_for(*parts: object) -> int:
    """A request's own seed in [0, 2^31), from what identifies it."""
    return int(content_hash("seed", *parts), 16) % 2**31


def dropped(stage: str, where: str, reason: str, *, detail: str = "", row: Mapping[str, Any] | None = None) -> Dropped:
    """A counted drop, with as much of the row as is useful to look at."""
    text = json.dumps(dict(row or {}), ensure_ascii=False, default=str)[:2000]
    return Dropped(stage=stage, where=where, reason=reason, detail=detail[:2000], row=text)
