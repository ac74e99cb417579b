"""Imports existing traces as a pool: matched to the run's prompts by content, graded like any other trace."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from distill.config.teachers import DatasetTeacher, TraceColumns
from distill.config.verify import VerifyConfig
from distill.core.run_dir import FAILED_REQUESTS, RunDir, StageName, pool_shards
from distill.core.schema import Dropped, Prompt, Style, Trace, content_hash, dropped, prompt_id
from distill.generate.pools import split_reasoning
from distill.grading import VERIFIER_VERSION, Grade, GraderPool, grade_request
from distill.models.resolve import load_tokenizer
from distill.prompts.load import RawRow, read_source, source_name
from distill.run.pools import Pool

SHARD_ROWS = 2048


class Imported(NamedTuple):
    """A completion of a data set."""

    where: str
    prompt_id: str
    sample_index: int
    """Position among the prompt's completions in the data set."""
    completion: str
    finish_reason: str

    def trace_id(self, pool: Pool) -> str:
        """The identity follows from the text, so that a reordered or extended data set keeps its traces."""
        return content_hash("imported", self.prompt_id, pool.fingerprint, self.completion)


def import_pool(
    pool: Pool, prompts: Mapping[str, Prompt], *, base: Path, run_dir: RunDir, verify: VerifyConfig
) -> Counter[str]:
    """Read, match, grade and write a data set as a pool. Returns row counts by outcome: `traces`, or why not.

    Traces that are on disk already are neither graded nor written again.

    Raises:
        InputError: the source cannot be read at all.
    """
    teacher = pool.teacher
    assert isinstance(teacher, DatasetTeacher)
    outcome: Counter[str] = Counter()
    drops: list[Dropped] = []
    count_tokens = token_counter(pool.source)
    on_disk = known_ids(run_dir, pool)
    found = usable_rows(teacher, read_source(teacher.source, base), prompts, drops)
    rows = (row for row in found if row.trace_id(pool) not in on_disk)
    with GraderPool.from_config(verify) as graders:
        for batch in iter(lambda: list(islice(rows, SHARD_ROWS)), []):
            requests = [
                grade_request(
                    prompts[row.prompt_id],
                    row.completion,
                    finish_reason=row.finish_reason,
                    reasoning_end=teacher.reasoning_end,
                )
                for row in batch
            ]
            grades = graders.grade_batch(requests)
            pairs = zip(batch, grades, strict=True)
            traces = [to_trace(row, grade, pool, count_tokens(row.completion)) for row, grade in pairs]
            name = content_hash([trace.trace_id for trace in traces])
            outcome["traces"] += run_dir.write_rows(traces, Trace, *pool_shards(pool.folder, f"{name}.parquet"))
    outcome.update(drop.reason for drop in drops)
    outcome["traces"] += len(on_disk)
    if drops:
        run_dir.write_rows(drops, Dropped, *FAILED_REQUESTS, f"{pool.folder}.parquet")
    return outcome


def usable_rows(
    teacher: DatasetTeacher, rows: Iterable[RawRow], prompts: Mapping[str, Prompt], drops: list[Dropped]
) -> Iterator[Imported]:
    """Completions for prompts of the run, each text once and at most `num_samples` a prompt; appends others to `drops`.

    A row that `where` excludes belongs to another pool and is not a drop.
    """
    taken: Counter[str] = Counter()
    seen: set[str] = set()
    for raw in rows:
        if not all(raw.row.get(name) == value for name, value in teacher.where.items()) and not raw.error:
            continue
        for item in to_imported(raw, teacher):
            identity = content_hash(item.prompt_id, item.completion) if isinstance(item, Imported) else ""
            reason = _unusable(item, prompts, taken, is_known=identity in seen, limit=teacher.num_samples)
            if reason:
                where = f"{teacher.name}/{raw.where}"
                drops.append(dropped(StageName.GENERATE, where, reason, row={"problem": _problem(raw, teacher)}))
            elif isinstance(item, Imported):
                taken[item.prompt_id] += 1
                seen.add(identity)
                yield item._replace(sample_index=taken[item.prompt_id] - 1)


def _unusable(
    item: Imported | str, prompts: Mapping[str, Prompt], taken: Counter[str], *, is_known: bool, limit: int
) -> str:
    if isinstance(item, str):
        return item
    if item.prompt_id not in prompts:
        return "not one of the run's prompts"
    if is_known:
        return "duplicate trace"
    return "beyond num_samples" if taken[item.prompt_id] >= limit else ""


def to_imported(raw: RawRow, teacher: DatasetTeacher) -> Iterator[Imported | str]:
    """The completions of a row, or the reason why there are none."""
    if raw.error:
        yield raw.error
        return
    problem, columns = _problem(raw, teacher), teacher.columns
    completions = _completions(raw.row.get(columns.completion))
    if not problem.strip():
        yield "no problem"
        return
    if not completions:
        yield "no completion"
        return
    reasons = raw.row.get(columns.finish_reason)
    listed = reasons if isinstance(reasons, list) else [reasons] * len(completions)
    for text, reason in zip(completions, [*listed, *[None] * len(completions)], strict=False):
        is_cut = reason == "length" or not text.rstrip().endswith(teacher.ends_with)
        yield Imported(raw.where, prompt_id(problem), 0, text, "length" if is_cut else "stop")


def _problem(raw: RawRow, teacher: DatasetTeacher) -> str:
    columns: TraceColumns = teacher.columns
    value = raw.row.get(columns.problem)
    if isinstance(value, str):
        return value
    turns = _turns(raw.row.get(columns.completion))
    return next((text for role, text in turns if role in ("user", "human")), "")


def _completions(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    turns = _turns(value)
    if turns:
        return [text for role, text in turns[-1:] if role in ("assistant", "gpt") and text.strip()]
    return [item for item in value if isinstance(item, str) and item.strip()] if isinstance(value, list) else []


def _turns(value: Any) -> list[tuple[str, str]]:
    """Chat turns as (role, text), from `role`/`content` or `from`/`value`; empty for anything else."""
    listed: Sequence[Any] = value if isinstance(value, list) else []
    if not all(isinstance(turn, dict) for turn in listed):
        return []
    names = (("role", "from"), ("content", "value"))
    pairs = [[str(turn.get(name, turn.get(other, ""))) for name, other in names] for turn in listed]
    return [(role, text) for role, text in pairs]


def to_trace(row: Imported, grade: Grade, pool: Pool, num_tokens: int) -> Trace:
    """The `Trace` of a graded import."""
    teacher = pool.teacher
    assert isinstance(teacher, DatasetTeacher)
    reasoning, answer = split_reasoning(row.completion, teacher.reasoning_end)
    return Trace(
        trace_id=row.trace_id(pool),
        prompt_id=row.prompt_id,
        pool=pool.name,
        style=Style(pool.teacher.style),
        fingerprint=pool.fingerprint,
        sample_index=row.sample_index,
        seed=0,
        completion=row.completion,
        reasoning=reasoning,
        answer=answer,
        prompt_tokens=0,
        completion_tokens=num_tokens,
        finish_reason=row.finish_reason,
        sampling=json.dumps({}),
        engine=f"data set {source_name(teacher.source)}",
        attempts=1,
        verdict=grade.verdict,
        extracted=grade.extracted,
        rule=grade.rule,
        verifier=VERIFIER_VERSION,
        detail=grade.detail,
    )


def token_counter(model_path: str) -> Callable[[str], int]:
    """Counts tokens with a model's tokenizer: the first student's, since a data set does not name its teacher's."""
    tokenizer = load_tokenizer(model_path)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def known_ids(run_dir: RunDir, pool: Pool) -> set[str]:
    """Identities of the pool's traces on disk."""
    table = run_dir.read_table(*pool_shards(pool.folder), row_type=Trace, columns=("trace_id",))
    return set(table.column("trace_id").to_pylist())
