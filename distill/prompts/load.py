"""Loads prompts and benchmarks from files, the hub or generators as `Prompt` rows with content identities.

A row that cannot be used (empty, too long, no answer, wrong type, duplicate, also in a benchmark) is dropped and
recorded with its reason; the run continues.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NamedTuple

from distill.config.sources import Columns, DataSource, GymSource, HubSource, PromptSource
from distill.core.errors import InputError
from distill.core.languages import KNOWN_LANGUAGES
from distill.core.run_dir import StageName
from distill.core.schema import AnswerKind, Dropped, Prompt, ReferenceOrigin, content_hash, dropped, prompt_id
from distill.grading.reasoning_gym_scorer import pack_entry
from distill.prompts.instructions import RowInstructions, instructions_of
from distill.prompts.multiple_choice import ChoiceProblem, format_choices
from distill.prompts.references import majority, reference_of, votes_of
from distill.prompts.rows.paths import get
from distill.prompts.rows.problems import problem_of
from distill.prompts.rows.raw_row import RawRow
from distill.prompts.rows.read import name_of, read_rows
from distill.prompts.rows.values import as_text

FIXED_HASH_SEED = "0"
HASH_SEEDED_TASKS = frozenset(
    ("composite", "isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder")
)
"""Tasks of reasoning-gym 0.1.25 whose problems follow the order of a set, and so Python's hash seed: of all 106, each
made under two of them. `composite` is made of others."""


class Loaded(NamedTuple):
    """The usable prompts, and the dropped rows."""

    prompts: list[Prompt]
    drops: list[Dropped]
    commits: Mapping[str, str] = {}
    """`data set@revision` -> the commit that was read from the hub, where it is known."""
    skipped: Mapping[str, int] = {}
    """Rows that the sources' `where` left out, by reason; they are counted and not kept."""


def load_prompts(
    sources: Iterable[PromptSource],
    *,
    base: Path,
    max_problem_chars: int,
    num_prompts: int | None,
    seed: int,
    exclude: Mapping[str, str] | None = None,
) -> Loaded:
    """Read all sources, drop unusable rows, and keep `num_prompts` prompts, chosen by a seeded hash.

    Args:
        sources: files, hub data sets or generators.
        base: folder to which relative file paths refer.
        max_problem_chars: longer problems are dropped.
        num_prompts: how many to keep; None keeps all.
        seed: seed of the choice.
        exclude: prompt_id -> benchmark that contains it; such prompts are dropped.

    Raises:
        InputError: a source cannot be read at all, or names an instruction that no rule checks.
    """
    prompts: list[Prompt] = []
    drops: list[Dropped] = []
    commits: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    seen: set[str] = set()
    for source in sources:
        rows = noted_commits(read_source(source, base, skipped), source, commits)
        for where, prompt in source_prompts(rows, source, max_problem_chars):
            if isinstance(prompt, Prompt):
                prompt = _check_identity(prompt, where, seen, exclude or {})
            if isinstance(prompt, Prompt):
                seen.add(prompt.prompt_id)
                prompts.append(prompt)
            else:
                drops.append(prompt)
    return choose(prompts, drops, num_prompts, seed)._replace(commits=commits, skipped=skipped)


def noted_commits(rows: Iterable[RawRow], source: PromptSource, commits: dict[str, str]) -> Iterator[RawRow]:
    """The same rows; the commit that they are of is added to `commits`."""
    for raw in rows:
        if isinstance(source, HubSource) and raw.commit:
            commits[versioned(source)] = raw.commit
        yield raw


def source_prompts(
    rows: Iterable[RawRow], source: PromptSource, max_problem_chars: int
) -> Iterator[tuple[str, Prompt | Dropped]]:
    """The rows of a source as prompts or drops, each with where it is from."""
    if not isinstance(source, GymSource) and source.columns.reference_from == "majority":
        yield from elected_prompts(rows, source, max_problem_chars)
    else:
        yield from ((raw.where, to_prompt(raw, source, max_problem_chars)) for raw in rows)


def elected_prompts(
    rows: Iterable[RawRow], source: DataSource, max_problem_chars: int
) -> Iterator[tuple[str, Prompt | Dropped]]:
    """Prompts whose references the traces of all their rows have elected. Of each problem only its first row becomes a
    prompt; problems without a majority are dropped."""
    first: dict[str, tuple[str, Prompt]] = {}
    votes: dict[str, list[str]] = {}
    for raw in rows:
        prompt = to_prompt(raw, source, max_problem_chars)
        if isinstance(prompt, Dropped):
            yield raw.where, prompt
            continue
        votes.setdefault(prompt.prompt_id, []).extend(votes_of(raw.row, source.columns))
        if first.setdefault(prompt.prompt_id, (raw.where, prompt))[1] is not prompt:
            row = {"problem": prompt.problem}
            yield raw.where, dropped(StageName.PROMPTS, raw.where, "one more vote for its problem", row=row)
    for name, (where, prompt) in first.items():
        winner, cast = majority(votes[name]), f"{len(votes[name])} traces: {', '.join(votes[name])}"
        row = {"problem": prompt.problem}
        lost = dropped(StageName.PROMPTS, where, "its traces have no majority", detail=cast, row=row)
        yield where, dataclasses.replace(prompt, reference=winner) if winner else lost


def _check_identity(prompt: Prompt, where: str, seen: AbstractSet[str], exclude: Mapping[str, str]) -> Prompt | Dropped:
    if prompt.prompt_id in seen:
        return dropped(StageName.PROMPTS, where, "duplicate", detail=prompt.prompt_id, row={"problem": prompt.problem})
    if prompt.prompt_id in exclude:
        return dropped(
            StageName.PROMPTS,
            where,
            "in a benchmark",
            detail=exclude[prompt.prompt_id],
            row={"problem": prompt.problem},
        )
    return prompt


def choose(prompts: list[Prompt], drops: list[Dropped], num_prompts: int | None, seed: int) -> Loaded:
    """Keep `num_prompts` in the order of a seeded hash: a larger number extends what a smaller one keeps."""
    ordered = sorted(prompts, key=lambda prompt: content_hash("choose", seed, prompt.prompt_id))
    keep = ordered if num_prompts is None else ordered[:num_prompts]
    rest = [] if num_prompts is None else ordered[num_prompts:]
    beyond = [
        dropped(StageName.PROMPTS, prompt.source, "beyond num_prompts", row={"problem": prompt.problem})
        for prompt in rest
    ]
    return Loaded(keep, [*drops, *beyond])


def to_prompt(raw: RawRow, source: PromptSource, max_problem_chars: int) -> Prompt | Dropped:
    """A source's row as a `Prompt`, or as a drop with its reason."""
    if raw.error:
        return dropped(StageName.PROMPTS, raw.where, raw.error, row=raw.row)
    columns = Columns() if isinstance(source, GymSource) else source.columns
    kind = _answer_kind(raw.row, source)
    entry, unchecked = _entry(raw, source, kind)
    problem, reason = problem_of(get(raw.row, columns.problem), columns.problem_pattern, stands_alone=True)
    reason = reason or ("problem too long" if len(problem) > max_problem_chars else "")
    reference, fault = reference_of(raw.row, columns, kind)
    language = _language(raw.row, source)
    reason = reason or fault or unchecked or _kind_fault(kind, entry) or _language_fault(language)
    if not reason and (columns.context or columns.choices):
        problem, reference, reason = _assemble(problem, reference, raw.row, columns)
    if reason:
        return dropped(StageName.PROMPTS, raw.where, reason, row=raw.row)
    return Prompt(
        prompt_id=prompt_id(problem),
        problem=problem.strip(),
        reference=reference,
        answer_kind=kind,
        source=source_name(source),
        level=as_text(get(raw.row, columns.level)) or "",
        subject=as_text(get(raw.row, columns.subject)) or "",
        entry=entry,
        reference_origin=columns.reference_from or ReferenceOrigin.COLUMN,
        language=language,
    )


def _answer_kind(row: Mapping[str, Any], source: PromptSource) -> str:
    if isinstance(source, GymSource):
        return AnswerKind.REASONING_GYM
    return as_text(get(row, source.columns.answer_kind)) or source.answer_kind


def _entry(raw: RawRow, source: PromptSource, kind: str) -> RowInstructions:
    """What judges an answer beyond the reference, or why it cannot be had."""
    entry = as_text(get(raw.row, "entry" if isinstance(source, GymSource) else source.columns.entry)) or ""
    if entry or kind != AnswerKind.INSTRUCTIONS or isinstance(source, GymSource):
        return RowInstructions(entry)
    return instructions_of(raw, source.columns)


def _language(row: Mapping[str, Any], source: PromptSource) -> str:
    own = None if isinstance(source, GymSource) else as_text(get(row, source.columns.language))
    return own or source.language or ""


def _language_fault(language: str) -> str:
    is_known = not language or language in KNOWN_LANGUAGES
    return "" if is_known else f"unknown language {language[:40]!r}"


def _kind_fault(kind: str, entry: str) -> str:
    if kind not in set(AnswerKind):
        return f"unknown kind of answer {kind[:40]!r}"
    return "reasoning-gym row without its entry" if kind == AnswerKind.REASONING_GYM and not entry else ""


def _assemble(problem: str, reference: str, row: Mapping[str, Any], columns: Columns) -> ChoiceProblem:
    """The problem with its context before it and its options below it."""
    context = as_text(get(row, columns.context)) or ""
    joint = "\n" if context.endswith((".", "!", "?", ":")) else ". "
    problem = f"{context}{joint}{problem.strip()}" if context else problem
    return format_choices(problem, reference, row, columns) if columns.choices else ChoiceProblem(problem, reference)


def source_name(source: PromptSource) -> str:
    """The name of a source that is stored in rows: its own, or one without paths of this machine."""
    if source.name:
        return source.name
    return f"reasoning_gym/{source.task}" if isinstance(source, GymSource) else name_of(source)


def versioned(source: HubSource) -> str:
    """A hub data set with the requested revision, as `name@revision`."""
    return f"{source.dataset}@{source.revision}"


def read_source(source: PromptSource, base: Path, skipped: Counter[str]) -> Iterator[RawRow]:
    """The rows of a source that are wanted, unreadable ones included; `skipped` counts the others.

    Raises:
        InputError: the source as a whole cannot be read, or has no column of a name in the recipe.
    """
    if isinstance(source, GymSource):
        is_fixed = source.task not in HASH_SEEDED_TASKS or os.environ.get("PYTHONHASHSEED") == FIXED_HASH_SEED
        yield from _read_reasoning_gym(source) if is_fixed else _read_in_fixed_process(source)
    else:
        yield from read_rows(source, base, source.columns, {}, skipped)


def _read_reasoning_gym(source: GymSource) -> Iterator[RawRow]:
    import reasoning_gym

    try:
        entries = reasoning_gym.create_dataset(source.task, seed=source.seed, size=source.size, **source.params)
    except (ValueError, TypeError, AssertionError) as error:
        remedy = "see the gallery of reasoning-gym for its tasks and their parameters"
        raise InputError(f"prompts: reasoning_gym task {source.task!r} {source.params}: {error} -> {remedy}") from error
    for number, entry in enumerate(entries):
        row = {"problem": entry["question"], "answer": entry["answer"], "entry": pack_entry(source.task, entry)}
        yield RawRow(f"{source.task}:{number}", row | _gym_level(source, entry["metadata"]))


def _gym_level(source: GymSource, told: Mapping[str, Any]) -> dict[str, Any]:
    if source.level is None:
        return {}
    # A task tells of a problem what it measured, and as its difficulty the parameters that it was made with.
    made_with = told.get("difficulty")
    everything = {**(made_with if isinstance(made_with, Mapping) else {}), **told}
    # The range that a value was drawn from is no level.
    values = {name: value for name, value in everything.items() if isinstance(value, int | float | str)}
    if source.level not in values:
        names = ", ".join(values)
        what = f"reasoning_gym task {source.task!r} tells no {source.level!r} of a problem"
        raise InputError(f"prompts: {what} -> set level to one of: {names}")
    return {"level": values[source.level]}


def _read_in_fixed_process(source: GymSource) -> Iterator[RawRow]:
    """The same rows, made in a process whose sets have the same order on every machine and in every run."""
    command = [sys.executable, "-c", f"from {__name__} import write_gym_rows; write_gym_rows()"]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONHASHSEED": FIXED_HASH_SEED, "PYTHONPATH": paths}
    done = subprocess.run(command, input=source.model_dump_json(), capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        is_told = done.returncode == InputError.exit_code
        raise InputError(last if is_told else f"prompts: reasoning_gym task {source.task!r}: {last} -> choose another")
    yield from (RawRow(*json.loads(line)) for line in done.stdout.splitlines())


def write_gym_rows() -> None:
    """Read a gym source from standard input and write its rows as JSON lines: the other end of the process."""
    try:
        for row in _read_reasoning_gym(GymSource.model_validate_json(sys.stdin.read())):
            print(json.dumps(row))
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(InputError.exit_code)


def count_reasons(drops: Sequence[Dropped]) -> dict[str, int]:
    """Drops by reason, most frequent first."""
    counts = Counter(drop.reason for drop in drops)
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))
