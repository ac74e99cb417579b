"""Removes contaminated prompts and near-duplicates and records what each one matched; uses Ray Data for large sets."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from distill.config.prompts import PromptsConfig
from distill.core.run_dir import StageName
from distill.core.schema import Dropped, Prompt, dropped
from distill.prompts.decontaminate import Match, find_hits, find_match, index_benchmarks
from distill.prompts.near_duplicates import NUM_BANDS, Duplicate, distinctive_shingles, find_near_duplicates, signature
from distill.prompts.ngrams import NUM_BUCKETS, common_shingles, count_shingles, tokens

RAY_FROM = 5_000
"""Number of prompts from which Ray Data is used; starting it takes a second or two."""
BATCH = 1024
"""Prompts per batch of a Ray task."""


class BenchmarkText(NamedTuple):
    """The n-grams of all benchmarks, as sent to workers."""

    grams: Any
    """[grams] uint64, ascending; empty: decontamination is off."""
    size: int
    """Tokens per n-gram."""


class Features(NamedTuple):
    """Features of all prompts, by row."""

    signatures: Any
    """[prompts, bands] uint64."""
    hits: dict[int, list[int]]
    """Row -> its distinctive n-grams that a benchmark contains, for rows with any."""


class Cleaned(NamedTuple):
    """The prompts that are kept, and the dropped ones with their reasons."""

    prompts: list[Prompt]
    drops: list[Dropped]


def clean_prompts(
    prompts: Sequence[Prompt],
    benchmarks: Mapping[str, Sequence[Prompt]],
    config: PromptsConfig,
    connect: Callable[[], object],
) -> Cleaned:
    """Drop prompts that paraphrase a benchmark problem, then near-duplicates of other prompts.

    Args:
        prompts: distinct training prompts.
        benchmarks: name -> its problems.
        config: `decontaminate_ngram` and `near_duplicates`; 0 switches a step off.
        connect: joins the Ray cluster; called only if there are `RAY_FROM` prompts or more.
    """
    size = config.decontaminate_ngram
    if not (size or config.near_duplicates):
        return Cleaned(list(prompts), [])
    index = index_benchmarks(benchmarks if size else {}, size)
    benchmark_text = BenchmarkText(np.sort(np.fromiter(index.positions, dtype=np.uint64)), size)
    common, features = _features(prompts, benchmark_text, connect)
    found = [find_match(prompts[row], hits, index, size) for row, hits in features.hits.items()]
    matches = [match for match in found if match is not None]
    contaminated = {match.prompt.prompt_id for match in matches}
    rest = [row for row, prompt in enumerate(prompts) if prompt.prompt_id not in contaminated]
    duplicates = _duplicates([prompts[row] for row in rest], features.signatures[rest], common, config.near_duplicates)
    duplicate_ids = {duplicate.prompt.prompt_id for duplicate in duplicates}
    kept = [prompts[row] for row in rest if prompts[row].prompt_id not in duplicate_ids]
    return Cleaned(kept, [*map(_drop_contaminated, matches), *map(_drop_duplicate, duplicates)])


def _features(
    prompts: Sequence[Prompt], benchmark_text: BenchmarkText, connect: Callable[[], object]
) -> tuple[Any, Features]:
    """The common shingles, and every prompt's features, which leave those out."""
    if len(prompts) >= RAY_FROM:
        connect()
        return _features_on_ray(prompts, benchmark_text)
    problems = [prompt.problem for prompt in prompts]
    common = common_shingles(add_counts([count_shingles(map(tokens, problems))]), len(prompts))
    references = [prompt.reference for prompt in prompts]
    built = build_features(range(len(prompts)), problems, references, benchmark_text, common)
    return common, _gather(built, len(prompts))


def build_features(
    rows: Sequence[int],
    problems: Sequence[str],
    references: Sequence[str],
    benchmark_text: BenchmarkText,
    common: Any,
) -> Iterator[tuple[int, Any, list[int]]]:
    """Row, signature and benchmark n-grams of each prompt."""
    for row, problem, reference in zip(rows, problems, references, strict=True):
        grams, size = benchmark_text
        hits = find_hits(problem, grams, common, size).tolist() if len(grams) else []
        yield row, signature(distinctive_shingles(problem, reference, common)), hits


def add_counts(counted: Iterable[tuple[Any, Any]]) -> Any:
    """[NUM_BUCKETS] int64: the sum of `count_shingles` over batches; buckets repeat where a block holds several."""
    total = np.zeros(NUM_BUCKETS, dtype=np.int64)
    for buckets, counts in counted:
        np.add.at(total, buckets, counts)
    return total


def _gather(built: Iterable[tuple[int, Any, list[int]]], num_prompts: int) -> Features:
    signatures, hits = np.zeros((num_prompts, NUM_BANDS), dtype=np.uint64), {}
    for row, bands, row_hits in built:
        signatures[row] = bands
        if row_hits:
            hits[row] = row_hits
    return Features(signatures, dict(sorted(hits.items())))


def _features_on_ray(prompts: Sequence[Prompt], benchmark_text: BenchmarkText) -> tuple[Any, Features]:
    """The same functions in Ray tasks; large shared arrays are put into the object store once."""
    import ray
    import ray.data

    data = ray.data.from_arrow(_table(prompts)).repartition(-(-len(prompts) // BATCH))
    benchmark_ref = ray.put(benchmark_text)

    def count(batch: pa.Table) -> pa.Table:
        buckets, counts = count_shingles(map(tokens, batch["problem"].to_pylist()))
        return pa.table({"bucket": buckets, "count": counts})

    counted = _batches(data.map_batches(count, batch_format="pyarrow", batch_size=BATCH))
    total = add_counts((batch["bucket"].to_numpy(), batch["count"].to_numpy()) for batch in counted)
    common = common_shingles(total, len(prompts))
    common_ref = ray.put(common)

    def compute(batch: pa.Table) -> pa.Table:
        row, problem, reference = (batch[name].to_pylist() for name in ("row", "problem", "reference"))
        built = build_features(row, problem, reference, ray.get(benchmark_ref), ray.get(common_ref))
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


def _duplicates(prompts: Sequence[Prompt], signatures: Any, common: Any, threshold: float) -> list[Duplicate]:
    return find_near_duplicates(prompts, signatures, common, threshold) if threshold else []


def _drop_contaminated(match: Match) -> Dropped:
    detail = f"{match.benchmark} {match.problem.prompt_id}: {match.run}"
    return _drop(match.prompt, "shares words with a benchmark", detail)


def _drop_duplicate(duplicate: Duplicate) -> Dropped:
    detail = f"{duplicate.kept.prompt_id} ({duplicate.similarity:.2f}): {duplicate.kept.problem}"
    return _drop(duplicate.prompt, "near duplicate", detail)


def _drop(prompt: Prompt, reason: str, detail: str) -> Dropped:
    row = {"prompt_id": prompt.prompt_id, "problem": prompt.problem[:1000]}
    return dropped(StageName.PROMPTS, prompt.source, reason, detail=detail, row=row)
