"""Loads prompts and benchmarks from files, the hub or generators as `Prompt` rows with content identities.

A row that cannot be used (empty, too long, no answer, wrong type, duplicate, also in a benchmark) is dropped and
recorded with its reason; the run continues.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from cluster.storage import matching_files
from distill.config.sources import Columns, FileSource, GymSource, HubSource, PromptSource, source_pattern
from distill.core.errors import InputError
from distill.core.run_dir import StageName
from distill.core.schema import AnswerKind, Dropped, Prompt, content_hash, dropped, prompt_id
from distill.grading.reasoning_gym_scorer import pack_entry
from distill.prompts.multiple_choice import ChoiceProblem, format_choices

COMMIT = re.compile(r"[0-9a-f]{40}")


class Loaded(NamedTuple):
    """The usable prompts, and the dropped rows."""

    prompts: list[Prompt]
    drops: list[Dropped]
    commits: Mapping[str, str] = {}
    """`data set@revision` -> the commit that was read from the hub, where it is known."""


class RawRow(NamedTuple):
    """One row of a source; `error` is set if it could not be parsed."""

    where: str
    row: Mapping[str, Any]
    error: str = ""
    commit: str = ""
    """Commit of the data set on the hub; empty for other sources or if it is not known."""


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
        InputError: a source cannot be read at all.
    """
    prompts: list[Prompt] = []
    drops: list[Dropped] = []
    commits: dict[str, str] = {}
    seen: set[str] = set()
    for source in sources:
        for raw in read_source(source, base):
            if isinstance(source, HubSource) and raw.commit:
                commits[versioned(source)] = raw.commit
            prompt = to_prompt(raw, source, max_problem_chars)
            if isinstance(prompt, Prompt):
                prompt = _check_identity(prompt, raw.where, seen, exclude or {})
            if isinstance(prompt, Prompt):
                seen.add(prompt.prompt_id)
                prompts.append(prompt)
            else:
                drops.append(prompt)
    return choose(prompts, drops, num_prompts, seed)._replace(commits=commits)


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
    problem, reference = raw.row.get(columns.problem), raw.row.get(columns.reference)
    is_scored_alone = isinstance(source, GymSource) and reference is None  # the task's scorer needs no reference
    reason = _row_fault(problem, "none" if is_scored_alone else reference, max_problem_chars)
    if not reason and (columns.context or columns.choices):
        problem, reference, reason = _assemble(str(problem), reference, raw.row, columns)
    if reason:
        return dropped(StageName.PROMPTS, raw.where, reason, row=raw.row)
    kind = AnswerKind.REASONING_GYM if isinstance(source, GymSource) else source.answer_kind
    return Prompt(
        prompt_id=prompt_id(str(problem)),
        problem=str(problem).strip(),
        reference=final_value(_as_text(reference)),
        answer_kind=kind,
        source=source_name(source),
        level=_as_text(raw.row.get(columns.level)),
        subject=_as_text(raw.row.get(columns.subject)),
        entry=str(raw.row.get("entry", "")) if isinstance(source, GymSource) else "",
    )


def _assemble(problem: str, reference: Any, row: Mapping[str, Any], columns: Columns) -> ChoiceProblem:
    """The problem with its context before it and its options below it."""
    context = _as_text(row.get(columns.context)) if columns.context else ""
    joint = "\n" if context.endswith((".", "!", "?", ":")) else ". "
    problem = f"{context}{joint}{problem.strip()}" if context else problem
    return format_choices(problem, reference, row, columns) if columns.choices else ChoiceProblem(problem, reference)


def _row_fault(problem: Any, reference: Any, max_problem_chars: int) -> str:
    if problem is None:
        return "no problem"
    if not isinstance(problem, str):
        return "problem is not text"
    if not problem.strip():
        return "empty problem"
    if len(problem) > max_problem_chars:
        return "problem too long"
    if reference is None or (isinstance(reference, str) and not reference.strip()):
        return "no answer"
    if not isinstance(reference, str | int | float | list):
        return "answer is not text or number"
    return "" if _as_text(reference) else "no answer"


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(_as_text(item) for item in value)
    return str(value).strip()


def final_value(reference: str) -> str:
    """The final value of a reference solution: in GSM8K it follows `####` on the last line."""
    match = re.search(r"####\s*(.+?)\s*$", reference)
    return match.group(1).replace(",", "") if match else reference


def source_name(source: PromptSource) -> str:
    """The name of a source that is stored in rows: without paths of this machine."""
    match source:
        case FileSource():
            return Path(source.path).name
        case HubSource():
            return f"{source.dataset}/{source.split}"
        case GymSource():
            return f"reasoning_gym/{source.task}"


def versioned(source: HubSource) -> str:
    """A hub data set with the requested revision, as `name@revision`."""
    return f"{source.dataset}@{source.revision}"


def read_source(source: PromptSource, base: Path) -> Iterator[RawRow]:
    """All rows of a source, unreadable ones included.

    Raises:
        InputError: the source as a whole cannot be read.
    """
    match source:
        case FileSource():
            yield from _read_files(source, base)
        case HubSource():
            yield from _read_hub(source)
        case GymSource():
            yield from _read_reasoning_gym(source)


def _read_files(source: FileSource, base: Path) -> Iterator[RawRow]:
    fs, files = matching_files(source.path, str(base))
    if not files:
        where = source_pattern(source, base)
        raise InputError(f"prompts: no file at {where} -> correct prompts.sources[].path (relative to the recipe)")
    for file in files:
        name = Path(str(file)).name
        with fs.open(file, "rb") as stream:
            yield from _read_parquet(name, stream) if name.endswith(".parquet") else _read_jsonl(name, stream)


def _read_parquet(name: str, stream: Any) -> Iterator[RawRow]:
    number = 0
    for batch in pq.ParquetFile(stream).iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield RawRow(f"{name}:{number}", row)


def _read_jsonl(name: str, stream: Iterable[bytes]) -> Iterator[RawRow]:
    for number, line in enumerate(stream, 1):
        where = f"{name}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            yield RawRow(where, {"line": line[:500].decode("utf-8", "replace")}, f"not JSON: {type(error).__name__}")
            continue
        is_object = isinstance(row, dict)
        yield RawRow(where, row if is_object else {"line": row}, "" if is_object else "not a JSON object")


def _read_hub(source: HubSource) -> Iterator[RawRow]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows = load_dataset(source.dataset, source.subset, split=source.split, revision=source.revision)
    except (DatasetNotFoundError, ConnectionError, OSError, ValueError) as error:
        first = str(error).splitlines()[0][:300]
        remedy = "check its name, its split and the network, or download it and use kind = 'file'"
        raise InputError(f"prompts: cannot read the data set {source.dataset}: {first} -> {remedy}") from error
    commit = read_commit([file["filename"] for file in rows.cache_files])
    for number, row in enumerate(rows):
        yield RawRow(f"{source.dataset}/{source.split}:{number}", row, commit=commit)


def read_commit(files: Sequence[str]) -> str:
    """The commit of the data set that was read, from the path of its cache files; empty if the path has none.

    The hub is not asked for it: offline, `datasets` uses the cached version, whatever revision was requested.
    """
    folders = {Path(file).parent.name for file in files}
    commit = folders.pop() if len(folders) == 1 else ""
    return commit if COMMIT.fullmatch(commit) else ""


def _read_reasoning_gym(source: GymSource) -> Iterator[RawRow]:
    import reasoning_gym

    try:
        entries = reasoning_gym.create_dataset(source.task, seed=source.seed, size=source.size, **source.params)
    except (ValueError, TypeError, AssertionError) as error:
        remedy = "see the gallery of reasoning-gym for its tasks and their parameters"
        raise InputError(f"prompts: reasoning_gym task {source.task!r} {source.params}: {error} -> {remedy}") from error
    for number, entry in enumerate(entries):
        row = {"problem": entry["question"], "answer": entry["answer"], "entry": pack_entry(source.task, entry)}
        yield RawRow(f"{source.task}:{number}", row)


def count_reasons(drops: Sequence[Dropped]) -> dict[str, int]:
    """Drops by reason, most frequent first."""
    reasons = [drop.reason for drop in drops]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons), key=lambda r: (-reasons.count(r), r))}
