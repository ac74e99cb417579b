"""Compares the traces on disk with the plan: which prompts are complete, and what is still to be asked."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from distill.core.run_dir import PROMPTS, RunDir
from distill.generate.ask_policy import AskPlan, PoolState, is_complete, is_solved, next_samples, not_asked
from distill.generate.chunks import CHUNK_ROWS, PAGE_ROWS, Chunk
from distill.generate.pool_index import PoolIndex, chunk_bounds, encode_states, read_indices, read_rows, states_of
from distill.run.pools import Pool

Group = list[Pool]


@dataclass(frozen=True)
class Survey:
    """The traces on disk and the prompts that are still to be asked."""

    indices: dict[str, PoolIndex]
    """Pool -> its traces on disk."""
    open_chunks: tuple[Chunk, ...]
    """Chunks with at least one open prompt."""
    num_open: int
    """Prompts for which at least one trace is still wanted."""
    num_complete: int
    """Prompts that every pool of the mixes solved."""
    num_short: int
    """Open prompts for which a teacher is asked again only because its readers need more traces."""
    saved: Counter[str]
    """Requests of the full budget that early stopping saved, by reason."""


def _encoded(states: Sequence[dict[str, PoolState]]) -> tuple[str, ...]:
    """The states of a chunk as text; empty where there are none."""
    has_any = any(pool.done for state in states for pool in state.values())
    return tuple(map(encode_states, states)) if has_any else ()


def is_enough(survey: Survey, enough_prompts: int | None) -> bool:
    """Whether as many prompts are complete as the recipe asks for."""
    return enough_prompts is not None and survey.num_complete >= enough_prompts


def survey_prompts(run_dir: RunDir, pools: Sequence[Pool], plan: AskPlan, names: set[str]) -> Survey:
    """Compare the traces on disk with the plan, page by page. `names`: the pools that can be asked."""
    indices = read_indices(run_dir, pools, plan)
    path = run_dir.path(*PROMPTS)
    chunks: list[Chunk] = []
    num_open, num_complete, num_short, saved = 0, 0, 0, Counter[str]()
    for start, stop in chunk_bounds(run_dir.num_rows(*PROMPTS), PAGE_ROWS):
        rows = read_rows(run_dir, path, start, stop, ("prompt_id", "source"))
        ids, plans = [row["prompt_id"] for row in rows], [plan.for_source(row["source"]) for row in rows]
        states = [states_of(indices, prompt_id) for prompt_id in ids]
        wanted = [next_samples(own, state, names) for own, state in zip(plans, states, strict=True)]
        is_open = [bool(samples) for samples in wanted]
        num_open += sum(is_open)
        num_short += sum(_is_short(*one) for one in zip(plans, states, wanted, strict=True))
        num_complete += sum(is_complete(own, state) for own, state in zip(plans, states, strict=True))
        for own, state, one in zip(plans, states, wanted, strict=True):
            if not one:
                stopped = not_asked(own, state, names)
                saved.update({"solved": stopped.solved, "lost": stopped.lost})
        for first, last in chunk_bounds(len(ids), CHUNK_ROWS):
            if any(is_open[first:last]):
                sources = sorted({name for index in indices.values() for name in index.shards(ids[first:last])})
                chunks.append(Chunk(start + first, start + last, _encoded(states[first:last]), tuple(sources)))
    return Survey(indices, tuple(chunks), num_open, num_complete, num_short, saved)


def _is_short(plan: AskPlan, state: dict[str, PoolState], wanted: Sequence[tuple[str, int]]) -> bool:
    """Whether what is wanted next is a trace for a reader, of a teacher that has solved the prompt."""
    return plan.stop_early and any(is_solved(plan.plan(pool), plan, state) for pool, _ in wanted)
