"""What is on disk and what is still to be asked."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from distill.config.teachers import DatasetTeacher
from distill.core.run_dir import RunDir
from distill.generate.ask_policy import AskPlan, PoolState, is_complete, next_samples, not_asked
from distill.generate.asker import CHUNK_ROWS, PAGE_ROWS, PROMPTS, Chunk
from distill.generate.pool_index import PoolIndex, chunk_bounds, encode_states, read_pool_index, read_rows, states_of
from distill.generate.pools import ask_plan, group_by_engine
from distill.generate.trace_shards import STAGE
from distill.run.context import Run
from distill.run.pools import Pool

Group = list[Pool]


def are_settled(current: Run, num_prompts: int) -> bool:
    """Whether the first prompts need no teacher any more, by what is on disk."""
    groups = group_by_engine(current.pools)
    plan = ask_plan(groups, current.recipe.mixes, stop_early=current.recipe.generate.stop_early)
    asked = {pool.name for group in groups for pool in group if not isinstance(pool.teacher, DatasetTeacher)}
    return not survey_prompts(current.run_dir, current.pools, plan, asked, num_prompts).num_open


@dataclass(frozen=True)
class Survey:
    """What is on disk and what is still to be asked, by chunks of prompts."""

    indices: dict[str, PoolIndex]
    open_chunks: tuple[Chunk, ...]
    """Those that hold a prompt for which something is wanted."""
    num_open: int
    """Prompts for which something is wanted."""
    num_complete: int
    """Prompts that every pool of the mixes solved."""
    saved: Counter[str]
    """Requests of the full budget that early stopping did without, by reason."""


def _encoded(states: Sequence[dict[str, PoolState]]) -> tuple[str, ...]:
    """The states of a chunk as they travel."""
    has_any = any(pool.done for state in states for pool in state.values())
    return tuple(map(encode_states, states)) if has_any else ()


def is_enough(current: Run, survey: Survey) -> bool:
    """Whether the mixes have the prompts that the recipe calls enough."""
    enough = current.recipe.generate.enough_prompts
    return enough is not None and survey.num_complete >= enough


def survey_prompts(
    run_dir: RunDir, pools: Sequence[Pool], plan: AskPlan, names: set[str], num_prompts: int | None = None
) -> Survey:
    """Compare what is on disk with the plan, a chunk of prompts at a time.

    `names`: pools that can be asked. `num_prompts`: look at no more than these, the first.
    """
    indices = {pool.name: read_pool_index(run_dir, STAGE, pool.folder) for pool in pools}
    path = run_dir.path(*PROMPTS)
    chunks: list[Chunk] = []
    num_open, num_complete, saved = 0, 0, Counter[str]()
    there = run_dir.num_rows(*PROMPTS)
    for start, stop in chunk_bounds(min(there, num_prompts or there), PAGE_ROWS):
        ids = [row["prompt_id"] for row in read_rows(run_dir, path, start, stop, ("prompt_id",))]
        states = [states_of(indices, prompt_id) for prompt_id in ids]
        is_open = [bool(next_samples(plan, state, names)) for state in states]
        num_open += sum(is_open)
        num_complete += sum(is_complete(plan, state) for state in states)
        for state, wanted in zip(states, is_open, strict=True):
            if not wanted:
                stopped = not_asked(plan, state, names)
                saved.update({"solved": stopped.solved, "lost": stopped.lost})
        for first, last in chunk_bounds(len(ids), CHUNK_ROWS):
            if any(is_open[first:last]):
                chunks.append(Chunk(start + first, start + last, _encoded(states[first:last])))
    return Survey(indices, tuple(chunks), num_open, num_complete, saved)
