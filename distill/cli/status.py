"""`distill status`: how far a run is, from its files alone; for another terminal, or another machine on the same disk.

Counts of traces and solved prompts are what is on disk: during generation at most a flush behind (`generate.flush_s`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from distill.config.mix import MixConfig
from distill.config.recipe import Recipe
from distill.config.shares import describe_cells
from distill.core.run_dir import RunDir
from distill.core.schema import IndexRow
from distill.generate.pool_index import is_usable
from distill.generate.trace_shards import STAGE as GENERATE
from distill.generate.traces import INDEX_COLUMNS
from distill.run.stage_keys import stage_states
from distill.train.attempts import read_attempts
from distill.train.cells import all_cells
from distill.train.worker.metrics import read_metrics


@dataclass(frozen=True)
class PoolFill:
    """What a pool has on disk."""

    traces: int
    correct: int
    """Correct and finished."""
    solved: frozenset[str]
    """Prompts with such a trace."""


def pool_fill(run_dir: RunDir, pool: str) -> PoolFill:
    """The pool's newest folder: a changed teacher fills another one. Traces in two shards count once."""
    folder = _newest_folder(run_dir, pool)
    verdicts: dict[str, tuple[str, bool]] = {}
    for shard in run_dir.shards(GENERATE, folder) if folder else ():
        for row in pq.read_table(shard, filesystem=run_dir.fs, columns=list(INDEX_COLUMNS)).to_pylist():
            trace = IndexRow(**row)
            verdicts[trace.trace_id] = (trace.prompt_id, is_usable(trace))
    usable = [prompt for prompt, taught in verdicts.values() if taught]
    return PoolFill(len(verdicts), len(usable), frozenset(usable))


def _newest_folder(run_dir: RunDir, pool: str) -> str:
    known = run_dir.fs.glob(run_dir.path(GENERATE, f"{pool}-*"))
    folders = [path.rstrip("/").rsplit("/", 1)[1] for path in known]
    mine = [folder for folder in folders if folder.rpartition("-")[0] == pool]
    return max(mine, key=lambda folder: _written_at(run_dir, folder), default="")


def _written_at(run_dir: RunDir, folder: str) -> float:
    times = (run_dir.fs.modified(shard).timestamp() for shard in run_dir.shards(GENERATE, folder))
    return max(times, default=0.0)


def common_prompts(mixes: Sequence[MixConfig], fills: Mapping[str, PoolFill]) -> frozenset[str]:
    """Prompts that every pool of every mix has solved so far: what all arms could be taught now."""
    pools = {pool for mix in mixes for pool in mix.shares}
    return frozenset.intersection(*(fills[pool].solved for pool in sorted(pools)))


def show_status(run_dir: RunDir, recipe: Recipe, console: Console) -> None:
    """Stages, pools, arms and cells of a run."""
    console.print(_stage_table(run_dir, recipe))
    fills = {teacher.name: pool_fill(run_dir, teacher.name) for teacher in recipe.teachers}
    console.print(_pool_table(fills))
    num_common = len(common_prompts(recipe.mixes, fills))
    wanted = recipe.generate.enough_prompts
    console.print(f"prompts that every arm can teach: {num_common}" + (f" of {wanted} wanted" if wanted else ""))
    for mix in recipe.mixes:
        console.print(f"  {mix.name}: {describe_cells(mix, num_common)}", highlight=False)
    console.print(_cell_table(run_dir, recipe))


def _stage_table(run_dir: RunDir, recipe: Recipe) -> Table:
    table = Table("stage", "", "rows", "seconds", box=None)
    for state in stage_states(recipe, None, run_dir).values():
        manifest = run_dir.read_manifest(state.stage)
        rows = f"{manifest.rows_out} of {manifest.rows_in}" if manifest else ""
        seconds = f"{manifest.wall_s:.0f}" if manifest else ""
        table.add_row(state.stage, f"{state.status} {state.reason}".strip(), rows, seconds)
    return table


def _pool_table(fills: Mapping[str, PoolFill]) -> Table:
    table = Table("pool", "traces", "correct", "prompts solved", box=None)
    for name, fill in fills.items():
        table.add_row(name, str(fill.traces), str(fill.correct), str(len(fill.solved)))
    return table


def _cell_table(run_dir: RunDir, recipe: Recipe) -> Table:
    table = Table("student@mix", "", "step", "loss", "tokens/s", box=None)
    for row in _cell_rows(run_dir, recipe):
        table.add_row(*row)
    return table


def _cell_rows(run_dir: RunDir, recipe: Recipe) -> Iterator[tuple[str, str, str, str, str]]:
    for cell in all_cells(recipe):
        lines, attempts = read_metrics(run_dir, cell.name), read_attempts(run_dir, cell.name)
        phase = "done" if run_dir.read_manifest("train", cell.name) else attempts[-1].outcome if attempts else "waits"
        last = lines[-1] if lines else None
        numbers = (f"{last.step} of {last.num_steps}", f"{last.loss:.3f}", f"{last.tokens_per_s:.0f}") if last else None
        yield (cell.name, phase, *(numbers or ("", "", "")))
