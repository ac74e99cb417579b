"""Stage 4: a mix draws one verified trace per prompt from the pools, by exact seeded weights.

The paper's construction (arXiv 2502.12143): only prompts that every pool solved, one trace per prompt, the same number
of rows whatever the weights. All arms of a run use the same prompts, so they differ in nothing but where each prompt's
trace comes from. Selection is nested: raising a pool's weight moves prompts to it and takes none away.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from distill.config import MixConfig
from distill.config_teachers import ChatFormat
from distill.errors import StageError
from distill.render import chat_messages
from distill.schema import Example, IndexRow, Message, Prompt, Verdict, content_hash

STAGE = "mix"

Candidates = Mapping[str, Mapping[str, IndexRow]]
"""prompt id -> pool -> the trace that stands for that pool."""


def candidates(index: Iterable[IndexRow], seed: int) -> Candidates:
    """The trace that stands for each (prompt, pool): of its correct and finished ones the first by seeded hash."""
    best: dict[str, dict[str, IndexRow]] = defaultdict(dict)
    usable = [row for row in index if row.verdict == Verdict.CORRECT and row.finish_reason != "length"]
    for row in sorted(usable, key=lambda row: content_hash("candidate", seed, row.trace_id)):
        best[row.prompt_id].setdefault(row.pool, row)
    return best


def common_prompts(best: Candidates, pools: Iterable[str]) -> list[str]:
    """Prompts that every one of the pools solved, sorted."""
    wanted = set(pools)
    return sorted(prompt for prompt, by_pool in best.items() if wanted <= set(by_pool))


def largest_remainder(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole counts that add up to `total`, each within one of weight x total; ties go to the first named pool."""
    exact = {pool: Fraction(str(weight)) * total for pool, weight in weights.items()}
    counts = {pool: int(share) for pool, share in exact.items()}
    by_remainder = sorted(weights, key=lambda pool: counts[pool] - exact[pool])
    for pool in by_remainder[: total - sum(counts.values())]:
        counts[pool] += 1
    return counts


def assign(prompts: Sequence[str], weights: Mapping[str, float], seed: int) -> dict[str, str]:
    """prompt -> pool: prompts in the order of a seeded hash, cut at the exact counts, pools in order of their name."""
    order = sorted(prompts, key=lambda prompt: content_hash("assign", seed, prompt))
    counts = largest_remainder(dict(sorted(weights.items())), len(order))
    pools = [pool for pool in sorted(counts) for _ in range(counts[pool])]
    return dict(zip(order, pools, strict=True))


def select(best: Candidates, mixes: Sequence[MixConfig], seed: int) -> dict[str, list[IndexRow]]:
    """mix -> its chosen traces, in the order of their prompts; every mix has the same prompts.

    Raises:
        StageError: no prompt was solved by all pools; says how many each one solved.
    """
    pools = sorted({pool for mix in mixes for pool in mix.weights})
    prompts = common_prompts(best, pools)
    if not prompts:
        solved = ", ".join(f"{pool} {sum(pool in by_pool for by_pool in best.values())}" for pool in pools)
        raise StageError(
            f"mix: no prompt was solved by all of the pools {', '.join(pools)} (prompts solved: {solved})\n"
            "  -> more prompts, more samples per prompt (teachers[].num_samples), easier prompts or a stronger teacher"
        )
    chosen = {mix.name: assign(prompts, mix.weights, seed) for mix in mixes}
    return {name: [best[prompt][pools_of[prompt]] for prompt in prompts] for name, pools_of in chosen.items()}


def to_example(row: IndexRow, mix: str, prompt: Prompt, completion: str, chat: ChatFormat) -> Example:
    """What a student sees of a trace: its own chat format, the teacher's completion."""
    turns = [Message(**turn) for turn in chat_messages(prompt.problem, chat)]
    return Example(
        trace_id=row.trace_id,
        prompt_id=row.prompt_id,
        mix=mix,
        pool=row.pool,
        style=row.style,
        messages=[*turns, Message("assistant", completion.strip())],
    )


def mix_details(mix: MixConfig, rows: Sequence[IndexRow]) -> dict[str, Any]:
    """Requested and realised shares of a mix, by rows and by tokens."""
    tokens = sum(row.completion_tokens for row in rows)
    by_pool = {pool: [row for row in rows if row.pool == pool] for pool in mix.weights}
    return {
        "rows": len(rows),
        "tokens": tokens,
        "mean_tokens": tokens / len(rows),
        "requested": dict(mix.weights),
        "realised_rows": {pool: len(part) / len(rows) for pool, part in by_pool.items()},
        "realised_tokens": {
            pool: sum(row.completion_tokens for row in part) / tokens for pool, part in by_pool.items()
        },
    }
