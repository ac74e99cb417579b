"""Near-duplicates and contaminated prompts taken out, each with what it matched; on Ray Data where there are many."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from distill.config import PromptsConfig
from distill.decontaminate import Source, benchmark_ngrams, find_contaminated, hits
from distill.near_duplicates import find_near_duplicates, signature
from distill.schema import Dropped, Prompt, dropped

STAGE = "prompts"
RAY_FROM = 5_000
"""Prompts from which Ray Data is faster than this process alone (it costs a second or two by itself)."""


class Features(NamedTuple):
    """What the comparison needs of every prompt, by prompt id."""

    signatures: dict[str, Any]
    hits: dict[str, list[int]]


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
    grams = benchmark_ngrams(benchmarks, size) if size else {}
    if len(prompts) >= RAY_FROM:
        connect()
        features = _features_on_ray(prompts, grams, size)
    else:
        features = build_features(prompts, grams, size)
    drops = _contaminated(prompts, features, grams, size)
    gone = {name for name, _ in drops}
    rest = [prompt for prompt in prompts if prompt.prompt_id not in gone]
    drops += _near_duplicates(rest, features, config.near_duplicates)
    gone = {name for name, _ in drops}
    return Cleaned([one for one in rest if one.prompt_id not in gone], [drop for _, drop in drops])


def build_features(prompts: Sequence[Prompt], grams: Mapping[int, Source], size: int) -> Features:
    """Signatures and benchmark n-grams of some prompts."""
    return Features(
        {prompt.prompt_id: signature(prompt.problem) for prompt in prompts},
        {prompt.prompt_id: hits(prompt.problem, grams, size) if grams else [] for prompt in prompts},
    )


def _features_on_ray(prompts: Sequence[Prompt], grams: Mapping[int, Source], size: int) -> Features:
    import pyarrow as pa
    import ray
    import ray.data

    shared = ray.put(dict(grams))

    def compute(batch: pa.Table) -> pa.Table:
        mine, ids = ray.get(shared), batch.column("prompt_id").to_pylist()
        texts = batch.column("problem").to_pylist()
        found = [hits(text, mine, size) if mine else [] for text in texts]
        bands = [signature(text).tolist() for text in texts]
        uint64s = pa.list_(pa.uint64())
        return pa.table({"prompt_id": ids, "bands": pa.array(bands, uint64s), "hits": pa.array(found, uint64s)})

    table = pa.table({"prompt_id": [p.prompt_id for p in prompts], "problem": [p.problem for p in prompts]})
    computed = ray.data.from_arrow(table).repartition(max(2, len(prompts) // RAY_FROM))
    features = Features({}, {})
    for batch in computed.map_batches(compute, batch_format="pyarrow", batch_size=1024).iter_batches(
        batch_format="pyarrow", batch_size=None
    ):
        for name, bands, found in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            features.signatures[name], features.hits[name] = bands, found
    return features


def _contaminated(
    prompts: Sequence[Prompt], features: Features, grams: Mapping[int, Source], size: int
) -> list[tuple[str, Dropped]]:
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    matches = find_contaminated(prompts, features.hits, grams, size)
    return [
        (
            match.prompt_id,
            _drop(
                by_id[match.prompt_id],
                "shares words with a benchmark",
                f"{match.source.benchmark} {match.source.prompt_id}: {match.run}",
            ),
        )
        for match in matches
    ]


def _near_duplicates(prompts: Sequence[Prompt], features: Features, threshold: float) -> list[tuple[str, Dropped]]:
    found = find_near_duplicates(prompts, features.signatures, threshold) if threshold else []
    return [
        (
            one.prompt.prompt_id,
            _drop(one.prompt, "near duplicate", f"{one.kept.prompt_id} ({one.similarity:.2f}): {one.kept.problem}"),
        )
        for one in found
    ]


def _drop(prompt: Prompt, reason: str, detail: str) -> Dropped:
    row = {"prompt_id": prompt.prompt_id, "problem": prompt.problem[:1000]}
    return dropped(STAGE, prompt.source, reason, detail=detail, row=row)
