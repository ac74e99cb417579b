"""Imports existing traces as a pool: matched to the run's prompts by content, graded like any other trace."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from distill.config.teachers import DatasetTeacher, names
from distill.config.verify import VerifyConfig
from distill.core.run_dir import FAILED_REQUESTS, RunDir, StageName, pool_shards
from distill.core.schema import Dropped, Prompt, Style, Trace, content_hash, dropped, prompt_id
from distill.core.verifier_version import verifier_version
from distill.generate.pools import split_reasoning
from distill.generate.trace_shards import keep_rows
from distill.grading import Grade, GradeRequest, GraderPool, grade_request, reference_identity
from distill.models.resolve import load_tokenizer
from distill.prompts.load import source_name
from distill.prompts.rows.completions import Completion, completions_of
from distill.prompts.rows.parallel import is_uneven, parallel, uneven
from distill.prompts.rows.paths import get
from distill.prompts.rows.problems import Found, problem_of
from distill.prompts.rows.raw_row import RawRow
from distill.prompts.rows.read import read_rows
from distill.prompts.rows.values import is_false
from distill.run.pools import Pool

SHARD_ROWS = 2048
MAX_KEPT_DROPS = 1000
"""Dropped rows that are kept for each reason; all are counted. A data set of millions has millions of strangers."""
MIN_REASONED_SHARE = 0.5
"""A long pool of which fewer traces hold reasoning is warned about."""
NUM_EXAMPLES = 2
EXAMPLE_CHARS = 160


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


class Tally:
    """Counts an import's rows by outcome, and keeps some of the dropped ones."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.drops: list[Dropped] = []

    def drop(self, where: str, reason: str, problem: str) -> None:
        """A row that did not become a trace."""
        self.counts[reason] += 1
        if self.counts[reason] <= MAX_KEPT_DROPS:
            self.drops.append(dropped(StageName.GENERATE, where, reason, row={"problem": problem}))


class Reasoned:
    """How many of a pool's traces hold reasoning that ends, with examples of those that do not."""

    def __init__(self, teacher: DatasetTeacher) -> None:
        self._teacher = teacher
        self._num_traces = self._num_reasoned = 0
        self._examples: list[str] = []

    def see(self, completion: str) -> None:
        """Count a trace."""
        self._num_traces += 1
        if self._teacher.reasoning_end in completion:
            self._num_reasoned += 1
        elif len(self._examples) < NUM_EXAMPLES:
            self._examples.append(completion[:EXAMPLE_CHARS])

    def warning(self) -> str:
        """What is wrong with a long pool; empty where nothing is."""
        teacher, total, reasoned = self._teacher, self._num_traces, self._num_reasoned
        if teacher.style != Style.LONG or not total or reasoned >= MIN_REASONED_SHARE * total:
            return ""
        examples = "; ".join(repr(example) for example in self._examples)
        what = f"{total - reasoned} of its {total} traces hold no reasoning that ends in {teacher.reasoning_end!r}"
        return (
            f"teachers[{teacher.name}] is long, but {what}, for example {examples} -> if the reasoning is in another"
            " column, name it in columns.reasoning; if it ends otherwise, set reasoning_end; if there is none, set"
            " style = 'short'"
        )


class ImportedPool(NamedTuple):
    """What an import did."""

    counts: Counter[str]
    """Rows by outcome: `traces`, or why not."""
    num_removed: int
    """Traces that the pool had and that are no longer in the source."""
    warning: str


def import_pool(
    pool: Pool, prompts: Mapping[str, Prompt], *, base: Path, run_dir: RunDir, verify: VerifyConfig
) -> ImportedPool:
    """Read, match, grade and write a data set as a pool.

    Traces that are on disk already are neither graded nor written again. Those of the run's prompts that the source
    holds no longer are removed, once it was read to its end.

    Raises:
        InputError: the source cannot be read at all.
    """
    teacher = pool.teacher
    assert isinstance(teacher, DatasetTeacher)
    tally, reasoned, present = Tally(), Reasoned(teacher), set[str]()
    count_tokens, on_disk = token_counter(pool.source), known_ids(run_dir, pool)

    def fresh_rows() -> Iterator[Imported]:
        raw = read_rows(teacher.source, base, teacher.columns, teacher.where, tally.counts)
        for row in usable_rows(teacher, raw, prompts, tally):
            reasoned.see(row.completion)
            present.add(row.trace_id(pool))
            if row.trace_id(pool) not in on_disk:
                yield row

    rows = fresh_rows()
    with GraderPool.from_config(verify) as graders:
        for batch in iter(lambda: list(islice(rows, SHARD_ROWS)), []):
            grades = graders.grade_batch([_request(row, prompts, teacher) for row in batch])
            pairs = zip(batch, grades, strict=True)
            traces = [
                to_trace(row, grade, pool, count_tokens(row.completion), prompts[row.prompt_id]) for row, grade in pairs
            ]
            name = content_hash([trace.trace_id for trace in traces])
            run_dir.write_rows(traces, Trace, *pool_shards(pool.folder, f"{name}.parquet"))
    num_removed = remove_absent(run_dir, pool, present, prompts)
    tally.counts["traces"] += len(present)
    run_dir.remove(*FAILED_REQUESTS, f"{pool.folder}.parquet")
    if tally.drops:
        run_dir.write_rows(tally.drops, Dropped, *FAILED_REQUESTS, f"{pool.folder}.parquet")
    return ImportedPool(tally.counts, num_removed, reasoned.warning())


def _request(row: Imported, prompts: Mapping[str, Prompt], teacher: DatasetTeacher) -> GradeRequest:
    end = teacher.reasoning_end
    return grade_request(prompts[row.prompt_id], row.completion, finish_reason=row.finish_reason, reasoning_end=end)


def remove_absent(run_dir: RunDir, pool: Pool, present: Set[str], prompts: Mapping[str, Prompt]) -> int:
    """Remove the pool's traces of these prompts that are not `present` (trace ids); returns how many. Traces of other
    prompts stay: the source was not searched for them."""
    removed = 0
    for path in run_dir.shards(*pool_shards(pool.folder)):
        shard = pool_shards(pool.folder, path.rsplit("/", 1)[1])
        ids = run_dir.read_table(*shard, row_type=Trace, columns=("trace_id", "prompt_id")).to_pylist()
        kept = [n for n, row in enumerate(ids) if row["trace_id"] in present or row["prompt_id"] not in prompts]
        if len(kept) < len(ids):
            keep_rows(run_dir, shard, kept)
            removed += len(ids) - len(kept)
    return removed


def usable_rows(
    teacher: DatasetTeacher, rows: Iterable[RawRow], prompts: Mapping[str, Prompt], tally: Tally
) -> Iterator[Imported]:
    """Completions for prompts of the run, each text once and at most `num_samples` a prompt; `tally` has the others."""
    taken: Counter[str] = Counter()
    seen: set[str] = set()
    for raw in rows:
        for item in to_imported(raw, teacher):
            identity = content_hash(item.prompt_id, item.completion) if isinstance(item, Imported) else ""
            reason = _unusable(item, prompts, taken, is_known=identity in seen, limit=teacher.num_samples)
            if reason:
                tally.drop(f"{teacher.name}/{raw.where}", reason, _shown_problem(raw, teacher))
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


def _shown_problem(raw: RawRow, teacher: DatasetTeacher) -> str:
    value = get(raw.row, teacher.columns.problem)
    return value[:EXAMPLE_CHARS] if isinstance(value, str) else ""


def to_imported(raw: RawRow, teacher: DatasetTeacher) -> Iterator[Imported | str]:
    """The completions of a row, each in its place or with the reason why it is none."""
    if raw.error:
        yield raw.error
        return
    columns = teacher.columns
    completions = row_completions(raw.row, teacher)
    if not completions:
        yield "no completion"
        return
    for column in filter(None, (columns.finish_reason, columns.correct)):
        if is_uneven(get(raw.row, column), len(completions)):
            yield from [uneven(column, "completions")] * len(completions)
            return
    reasons = parallel(get(raw.row, columns.finish_reason), len(completions))
    marks = parallel(get(raw.row, columns.correct), len(completions))
    for completion, reason, mark in zip(completions, reasons, marks, strict=True):
        problem = _problem(raw.row, completion, teacher)
        fault = problem.fault or completion.fault or ("the data set calls it wrong" if is_false(mark) else "")
        if fault:
            yield fault
            continue
        is_cut = reason == "length" or not completion.text.rstrip().endswith(teacher.ends_with)
        finish_reason = "length" if is_cut else "stop"
        yield Imported(raw.where, prompt_id(problem.text), 0, completion.text, finish_reason)


def row_completions(row: Mapping[str, Any], teacher: DatasetTeacher) -> list[Completion]:
    """The completions of all completion columns of a row, column after column."""
    columns = teacher.columns
    reasonings = names(columns.reasoning) if columns.reasoning else [None] * len(names(columns.completion))
    return [
        one
        for column, reasoning in zip(names(columns.completion), reasonings, strict=True)
        for one in completions_of(get(row, column), get(row, reasoning), turns=columns.turns, end=teacher.reasoning_end)
    ]


def _problem(row: Mapping[str, Any], completion: Completion, teacher: DatasetTeacher) -> Found:
    """The problem of a completion: in its column, else the user turn that it answers."""
    columns = teacher.columns
    value = get(row, columns.problem)
    asked = completion.question or None if value is None else value
    return problem_of(asked, columns.problem_pattern, stands_alone=False)


def to_trace(row: Imported, grade: Grade, pool: Pool, num_tokens: int, prompt: Prompt) -> Trace:
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
        verifier=verifier_version([prompt.answer_kind]),
        detail=grade.detail,
        graded_against=reference_identity(prompt),
    )


@lru_cache(maxsize=4)
def token_counter(model_path: str) -> Callable[[str], int]:
    """Counts tokens with a model's tokenizer: the first student's, since a data set does not name its teacher's."""
    tokenizer = load_tokenizer(model_path)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def known_ids(run_dir: RunDir, pool: Pool) -> set[str]:
    """Identities of the pool's traces on disk."""
    table = run_dir.read_table(*pool_shards(pool.folder), row_type=Trace, columns=("trace_id",))
    return set(table.column("trace_id").to_pylist())
