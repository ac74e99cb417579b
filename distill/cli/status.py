"""`distill status`: the progress of a run, read from its files: in another terminal, or on a machine with that disk.

During generation the counts of traces and solved prompts are at most `generate.flush_s` seconds behind.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain

from rich.console import Console
from rich.table import Table

from distill.config.asking_order import asking_order
from distill.config.passes import passes
from distill.config.prompt_sets import ArmGroup
from distill.config.recipe import Recipe
from distill.config.shares import describe_rows
from distill.config.teachers import AskedTeacher, TeacherConfig, engine_key, read_pool
from distill.core.run_dir import PROMPTS, RunDir, Training, finished_pass, pool_shards
from distill.core.schema import Prompt, is_teachable
from distill.generate.ask_policy import TAKEN, source_mark
from distill.generate.edits import is_kept, keep_if_of
from distill.run.stage_keys import stage_states
from distill.train.attempts import read_attempts
from distill.train.cells import Cell, all_cells
from distill.train.worker.metrics import read_metrics

COLUMNS = ("trace_id", "prompt_id", "verdict", "finish_reason", "parent", "growth")


@dataclass(frozen=True)
class PoolFill:
    """Counts of a pool's traces on disk."""

    marks: Mapping[str, str]
    """Trace -> what a reader takes it for (`source_mark`)."""
    correct: int
    """Correct, not cut by the token limit, and of edits those that are used."""
    solved: frozenset[str]
    """Prompts with such a trace."""

    @property
    def traces(self) -> int:
        """All of them."""
        return len(self.marks)


def pool_fills(run_dir: RunDir, teachers: Sequence[TeacherConfig]) -> dict[str, PoolFill]:
    """The fills of all pools, what is read before what reads it."""
    by_name = {teacher.name: teacher for teacher in teachers}
    order = asking_order(teachers, {name: engine_key(teacher) for name, teacher in by_name.items()})
    fills: dict[str, PoolFill] = {}
    for name in chain.from_iterable(order):
        fills[name] = pool_fill(run_dir, by_name[name], fills)
    return {name: fills[name] for name in by_name}


def pool_fill(run_dir: RunDir, teacher: TeacherConfig, fills: Mapping[str, PoolFill]) -> PoolFill:
    """Counts of the pool's newest folder (a changed teacher has another one). A trace in two shards counts once.

    `fills`: of the pool that it reads: an edit counts as correct only if its source is still there and taken.
    """
    folder, source, keep_if = _newest_folder(run_dir, teacher.name), read_pool(teacher), keep_if_of(teacher)
    taken = TAKEN[teacher.takes if isinstance(teacher, AskedTeacher) else "correct"]
    marks: dict[str, str] = {}
    usable: dict[str, str] = {}
    for table in run_dir.column_tables(COLUMNS, *pool_shards(folder)) if folder else ():
        rows = zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True)
        for trace, prompt, verdict, finish, parent, growth in rows:
            is_read = source is None or fills[source].marks.get(parent, "-") in taken
            is_correct = is_teachable(verdict, finish) and is_kept(growth, keep_if) and is_read
            marks[trace] = source_mark(verdict, is_correct=is_correct)
            usable.pop(trace, None)
            if is_correct:
                usable[trace] = prompt
    return PoolFill(marks, len(usable), frozenset(usable.values()))


def _newest_folder(run_dir: RunDir, pool: str) -> str:
    known = run_dir.matching(*pool_shards(f"{pool}-*"))
    folders = [path.rstrip("/").rsplit("/", 1)[1] for path in known]
    own = [folder for folder in folders if folder.rpartition("-")[0] == pool]
    return max(own, key=lambda folder: _written_at(run_dir, folder), default="")


def _written_at(run_dir: RunDir, folder: str) -> float:
    times = (run_dir.fs.modified(shard).timestamp() for shard in run_dir.shards(*pool_shards(folder)))
    return max(times, default=0.0)


def common_prompts(group: ArmGroup, fills: Mapping[str, PoolFill], sources: Mapping[str, str]) -> frozenset[str]:
    """Prompts that every pool of a group's mixes has solved so far: those that its arms could teach now.

    `sources`: prompt -> its source; read only where the group has sources of its own.
    """
    common = frozenset.intersection(*(fills[pool].solved for pool in group.pools))
    return frozenset(prompt for prompt in common if group.has(sources.get(prompt, ""))) if group.sources else common


def show_status(run_dir: RunDir, recipe: Recipe, console: Console) -> None:
    """Print stages, pools, arms and training cells of a run."""
    console.print(_stage_table(run_dir, recipe))
    for number, part in enumerate(passes(recipe)[:-1], 1):
        is_done = run_dir.read_manifest(*finished_pass(number)) is not None
        arms = ", ".join(mix.name for mix in part.mixes)
        console.print(f"pass {number} ({arms}): {'done' if is_done else 'not done'}", highlight=False)
    fills = pool_fills(run_dir, recipe.teachers)
    console.print(_pool_table(fills))
    wanted, groups = recipe.generate.enough_prompts, recipe.arm_groups
    sources = _prompt_sources(run_dir) if any(group.sources for group in groups) else {}
    for group in groups:
        num_common = len(common_prompts(group, fills, sources))
        named = f"prompts of {' and '.join(group.sources)}" if group.sources else "prompts"
        pools = "all pools" if len(groups) == 1 else " and ".join(group.pools)
        console.print(f"{named} that {pools} solved: {num_common}" + (f" of {wanted} wanted" if wanted else ""))
        for mix in group.mixes:
            console.print(f"  {mix.name}: {describe_rows(mix, num_common)}", highlight=False)
    console.print(_cell_table(run_dir, recipe))


def _prompt_sources(run_dir: RunDir) -> dict[str, str]:
    table = run_dir.read_table(*PROMPTS, row_type=Prompt, columns=("prompt_id", "source"))
    return dict(zip(table["prompt_id"].to_pylist(), table["source"].to_pylist(), strict=True))


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
    table = Table("student@arm", "", "step", "loss", "tokens/s", box=None)
    for row in _cell_rows(run_dir, recipe):
        table.add_row(*row)
    return table


def _cell_rows(run_dir: RunDir, recipe: Recipe) -> Iterator[tuple[str, str, str, str, str]]:
    done = {cell.name for cell in all_cells(recipe) if run_dir.read_manifest(*Training(cell.name).folder) is not None}
    for cell in all_cells(recipe):
        lines, attempts = read_metrics(run_dir, cell.name), read_attempts(run_dir, cell.name)
        state = "done" if cell.name in done else attempts[-1].outcome if attempts else _waiting(cell, done)
        last = lines[-1] if lines else None
        numbers = (f"{last.step} of {last.num_steps}", f"{last.loss:.3f}", f"{last.tokens_per_s:.0f}") if last else None
        yield (cell.name, state, *(numbers or ("", "", "")))


def _waiting(cell: Cell, done: Set[str]) -> str:
    """A cell that has not begun, and for which others it waits."""
    missing = [parent.name for parent in cell.parents if parent.name not in done]
    return f"waiting for {', '.join(missing)}" if missing else "waiting"
