"""Reads the first rows of every source of a recipe, and says what they become."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from distill.config.recipe import Recipe, benchmark_configs
from distill.config.sources import DataSource, GymSource, HubSource, PromptSource
from distill.config.teachers import DatasetTeacher
from distill.core.errors import InputError
from distill.core.schema import Prompt, ReferenceOrigin
from distill.generate.dataset_teacher import Imported, to_imported
from distill.ops.doctor.findings import Finding
from distill.ops.doctor.probes import source_error
from distill.prompts.load import read_source, source_name, source_prompts
from distill.prompts.rows.read import NoColumnError, read_rows

SAMPLE_ROWS = 50
SHOWN_CHARS = 60
REMEDY = "correct its columns and where; docs/data.md shows how data sets are mapped"


class Sample(NamedTuple):
    """What the first rows of a source are."""

    shown: str
    """The first usable one; empty where there is none."""
    reasons: Counter[str]
    """Why the rows before it cannot be used."""


def data_findings(recipe: Recipe, base: Path) -> Iterator[Finding]:
    """What the first rows of every source of prompts, of every benchmark and of every imported pool become."""
    benchmarks = [one.source for one in benchmark_configs(recipe).values()]
    for source in [*recipe.prompts.sources, *benchmarks]:
        yield source_finding(source, base, partial(prompt_sample, source, base, recipe.prompts.max_problem_chars))
    for teacher in recipe.teachers:
        if isinstance(teacher, DatasetTeacher):
            yield source_finding(teacher.source, base, partial(trace_sample, teacher, base))


def source_finding(source: PromptSource, base: Path, sample: Callable[[], Sample]) -> Finding:
    """Whether a source can be read, and what its first rows are."""
    name, error = source_name(source), source_error(source, base)
    if error:
        remedy = "set HF_TOKEN if the hub requires one, correct the name, or name a local folder"
        return Finding("data", "problem", f"{name}: {error}", remedy)
    try:
        found = sample()
    except NoColumnError as fault:  # a later row may have it
        return Finding("data", "warning", f"in its first {SAMPLE_ROWS} rows: {fault}", REMEDY)
    except InputError as fault:
        return Finding("data", "problem", f"{name}: {fault}", REMEDY)
    if found.shown:
        return Finding("data", "ok", f"{name}: {found.shown}")
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.reasons.most_common()) or "there are no rows"
    return Finding("data", "warning", f"{name}: none of its first {SAMPLE_ROWS} rows can be used: {reasons}", REMEDY)


def prompt_sample(source: PromptSource, base: Path, max_problem_chars: int) -> Sample:
    """The first prompt of a source."""
    counts: Counter[str] = Counter()
    rows = read_source(first_rows(source), base, counts)
    for _, found in source_prompts(rows, source, max_problem_chars):
        if isinstance(found, Prompt):
            origin = "" if found.reference_origin == ReferenceOrigin.COLUMN else f", from its {found.reference_origin}"
            return Sample(f"{shortened(found.problem)} -> {shortened(found.reference)}{origin}", counts)
        counts[found.reason] += 1
    return Sample("", counts)


def trace_sample(teacher: DatasetTeacher, base: Path) -> Sample:
    """The first trace of a pool."""
    counts: Counter[str] = Counter()
    source = teacher.source.model_copy(update=_bounds(teacher.source))
    for raw in read_rows(source, base, teacher.columns, teacher.where, counts):
        for found in to_imported(raw, teacher):
            if isinstance(found, Imported):
                return Sample(f"pool {teacher.name}, first trace {shortened(found.completion)}", counts)
            counts[found] += 1
    return Sample("", counts)


def first_rows(source: PromptSource) -> PromptSource:
    """The same source, bounded to its first rows."""
    if isinstance(source, GymSource):
        return source.model_copy(update={"size": min(source.size, SAMPLE_ROWS)})
    return source.model_copy(update=_bounds(source))


def _bounds(source: DataSource) -> dict[str, Any]:
    """Fields that bound a source; from the hub rows are streamed, and nothing is kept."""
    max_rows = min(source.max_rows or SAMPLE_ROWS, SAMPLE_ROWS)
    return {"max_rows": max_rows, **({"streaming": True} if isinstance(source, HubSource) else {})}


def shortened(text: str) -> str:
    """The beginning of a text, in quotes, on one line."""
    return repr(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}...")
