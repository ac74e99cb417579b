"""Near-duplicates and contaminated prompts taken out, each with what it matched; on Ray Data where there are many."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from distill.config.prompts import PromptsConfig
from distill.core.schema import Dropped, Prompt, dropped
from distill.prompts.decontaminate import Match, exam_problems, find_hits, find_match
from distill.prompts.near_duplicates import NUM_BANDS, NearDuplicate, find_near_duplicates, signature, tell
from distill.prompts.ngrams import NUM_BUCKETS, common_shingles, count_shingles, tokens

STAGE = "prompts"
RAY_FROM = 5_000
"""Prompts from which Ray Data is used; it costs a second or two by itself."""
BATCH = 1024
"""Prompts per batch of a Ray task."""


class Exam(NamedTuple):
    """The benchmarks' n-grams as a worker needs them."""

    grams: Any
    """[grams] uint64, ascending; empty: no benchmark is compared."""
    size: int
    """Tokens per n-gram."""


class Features(NamedTuple):
    """What the comparison needs of every prompt, by its row."""

    signatures: Any
    """[prompts, bands] uint64."""
    hits: dict[int, list[int]]
    """Row -> the telling n-grams that a benchmark holds, where there are any."""


class Cleaned(NamedTuple):
    """Prompts that stay, and those that go with their reason."""

    prompts: list[Prompt]
    drops: list[Dropped]


def clean_prompts(
    prompts: Sequence[Prompt],
    benchmarks: Mapping[str, Sequence[Prompt]],
    config: PromptsConfig,
    connect: Callable[[], object],
) -> Cleaned:
    """Take out what is in a benchmark in other words, then what another prompt says already.

    Args:
        prompts: distinct training prompts.
        benchmarks: name -> its problems.
        config: thresholds; 0 leaves a step out.
        connect: joins the Ray cluster; called for many prompts only.
    """
    size = config.decontaminate_ngram
    if not (size or config.near_duplicates):
        return Cleaned(list(prompts), [])
    known = exam_problems(benchmarks if size else {}, size)
    common, features = _features(prompts, Exam(np.sort(np.fromiter(known.places, dtype=np.uint64)), size), connect)
    found = [find_match(prompts[row], hits, known, size) for row, hits in features.hits.items()]
    matches = [match for match in found if match is not None]
    leaked = {match.prompt.prompt_id for match in matches}
    rest = [row for row, prompt in enumerate(prompts) if prompt.prompt_id not in leaked]
    twins = _twins([prompts[row] for row in rest], features.signatures[rest], common, config.near_duplicates)
    gone = {twin.prompt.prompt_id for twin in twins}
    stay = [prompts[row] for row in rest if prompts[row].prompt_id not in gone]
    return Cleaned(stay, [*map(_contaminated, matches), *map(_repeated, twins)])


def _features(prompts: Sequence[Prompt], exam: Exam, connect: Callable[[], object]) -> tuple[Any, Features]:
    """The task's wording, then every prompt's features in the light of it."""
    if len(prompts) >= RAY_FROM:
        connect()
        return _features_on_ray(prompts, exam)
    problems = [prompt.problem for prompt in prompts]
    common = common_shingles(add_counts([count_shingles(map(tokens, problems))]), len(prompts))
    references = [prompt.reference for prompt in prompts]
    return common, _gather(build_features(range(len(prompts)), problems, references, exam, common), len(prompts))


def build_features(
    rows: Sequence[int], problems: Sequence[str], references: Sequence[str], exam: Exam, common: Any
) -> Iterator[tuple[int, Any, list[int]]]:
    """Row, signature and telling benchmark n-grams of some prompts."""
    for row, problem, reference in zip(rows, problems, references, strict=True):
        hits = find_hits(problem, exam.grams, common, exam.size).tolist() if len(exam.grams) else []
        yield row, signature(tell(problem, reference, common)), hits


def add_counts(counted: Iterable[tuple[Any, Any]]) -> Any:
    """[NUM_BUCKETS] int64: the sum of `count_shingles` over batches; a block of several repeats counters."""
    total = np.zeros(NUM_BUCKETS, dtype=np.int64)
    for buckets, counts in counted:
        np.add.at(total, buckets, counts)
    return total


def _gather(built: Iterable[tuple[int, Any, list[int]]], num_prompts: int) -> Features:
    signatures, hits = np.zeros((num_prompts, NUM_BANDS), dtype=np.uint64), {}
    for row, bands, mine in built:
        signatures[row] = bands
        if mine:
            hits[row] = mine
    return Features(signatures, dict(sorted(hits.items())))


def _features_on_ray(prompts: Sequence[Prompt], exam: Exam) -> tuple[Any, Features]:
    """The same functions in Ray tasks; what is large and the same for all is put once."""
    import ray
    import ray.data

    data = ray.data.from_arrow(_table(prompts)).repartition(-(-len(prompts) // BATCH))
    exam_ref = ray.put(exam)

    def count(batch: pa.Table) -> pa.Table:
        buckets, counts = count_shingles(map(tokens, batch["problem"].to_pylist()))
        return pa.table({"bucket": buckets, "count": counts})

    counted = _batches(data.map_batches(count, batch_format="pyarrow", batch_size=BATCH))
    total = add_counts((batch["bucket"].to_numpy(), batch["count"].to_numpy()) for batch in counted)
    common = common_shingles(total, len(prompts))
    common_ref = ray.put(common)

    def compute(batch: pa.Table) -> pa.Table:
        row, problem, reference = (batch[name].to_pylist() for name in ("row", "problem", "reference"))
        built = build_features(row, problem, reference, ray.get(exam_ref), ray.get(common_ref))
        rows, bands, hits = zip(*built, strict=True)
        signatures = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(bands)), NUM_BANDS)
        return pa.table({"row": rows, "bands": signatures, "hits": pa.array(hits, pa.list_(pa.uint64()))})

    computed = _batches(data.map_batches(compute, batch_format="pyarrow", batch_size=BATCH))
    built = (row for batch in computed for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    return common, _gather(built, len(prompts))


def _table(prompts: Sequence[Prompt]) -> pa.Table:
    problems, references = [prompt.problem for prompt in prompts], [prompt.reference for prompt in prompts]
    return pa.table({"row": range(len(prompts)), "problem": problems, "reference": references})


def _batches(data: Any) -> Iterable[pa.Table]:
    return cast(Iterable[pa.Table], data.iter_batches(batch_format="pyarrow", batch_size=None))


def _twins(prompts: Sequence[Prompt], signatures: Any, common: Any, threshold: float) -> list[NearDuplicate]:
    return find_near_duplicates(prompts, signatures, common, threshold) if threshold else []


def _contaminated(match: Match) -> Dropped:
    detail = f"{match.benchmark} {match.problem.prompt_id}: {match.run}"
    return _drop(match.prompt, "shares words with a benchmark", detail)


def _repeated(twin: NearDuplicate) -> Dropped:
    detail = f"{twin.kept.prompt_id} ({twin.similarity:.2f}): {twin.kept.problem}"
    return _drop(twin.prompt, "near duplicate", detail)


def _drop(prompt: Prompt, reason: str, detail: str) -> Dropped:
    row = {"prompt_id": prompt.prompt_id, "problem": prompt.problem[:1000]}
    return dropped(STAGE, prompt.source, reason, detail=detail, row=row)
