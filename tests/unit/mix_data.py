"""Small indexes of verified traces for the tests of the mix."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from distill.core.run_dir import rows_table
from distill.core.schema import IndexRow, content_hash
from distill.mix.candidates import Candidates, Labels, build_candidates
from distill.mix.filters import USABLE, reasons_without_text
from distill.mix.trace_index import TraceIndex, fill_index

POOLS = ("long", "short")


def row(prompt: str, pool: str, sample: int = 0, verdict: str = "CORRECT", finish: str = "stop") -> IndexRow:
    return IndexRow(
        trace_id=content_hash(prompt, pool, sample),
        prompt_id=content_hash(prompt),
        pool=pool,
        style="long" if pool == "long" else "short",
        fingerprint="f",
        sample_index=sample,
        verdict=verdict,
        rule="exact",
        prompt_tokens=10,
        completion_tokens=(30 if pool == "long" else 10) + sample,
        finish_reason=finish,
    )


def full_rows(num_prompts: int, pools: Sequence[str] = POOLS, samples: int = 1) -> list[IndexRow]:
    return [
        row(f"p{number}", pool, sample) for number in range(num_prompts) for pool in pools for sample in range(samples)
    ]


def index_of(rows: Sequence[IndexRow], batch_rows: int = 1000) -> TraceIndex:
    return fill_index(len(rows), iter(rows_table(rows, IndexRow).to_batches(max_chunksize=batch_rows)))


def candidates_of(rows: Sequence[IndexRow], pools: Sequence[str] = POOLS, seed: int = 0) -> Candidates:
    index = index_of(rows)
    return build_candidates(index, reasons_without_text(index, tuple(pools)) == USABLE, pools, seed)


def with_levels(candidates: Candidates, levels: Sequence[str]) -> Candidates:
    names = sorted(set(levels))
    codes = np.array([names.index(level) for level in levels], dtype=np.int32)
    return dataclasses.replace(candidates, labels={"level": Labels(codes, tuple(names))})
