"""A run as a program reads it: its rows as Arrow tables, its report, its plan. `.to_pandas()` makes a data frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from distill.config.base import one_of
from distill.config.recipe import Recipe
from distill.core.errors import InputError
from distill.core.run_dir import (
    PROMPTS,
    VERDICTS,
    RunDir,
    arm_examples,
    benchmark_problems,
    benchmark_scores,
    open_run,
    pool_shards,
)
from distill.core.schema import Example, IndexRow, Prompt, Score, Trace, arrow_schema
from distill.evaluate.read_scores import expected_models
from distill.ops.forecast.cell_plan import fetch_settings, plan_recipe
from distill.ops.forecast.inputs import forecast_recipe
from distill.ops.forecast.stage_times import Forecast
from distill.report.build import build_report
from distill.report.data import Report
from distill.report.stored import stored_report
from distill.run.run_recipe import load_run_recipe
from distill.run.stage_keys import stage_states
from distill.train.machines import planned_machines
from distill.train.plan import Plan


class RunPlan(NamedTuple):
    """What a run would take."""

    training: Plan
    """Steps, memory and layout of every cell."""
    forecast: Forecast | None
    """Hours, tokens and cost of every stage; None where the number of prompts is unknown."""


@dataclass(frozen=True)
class FinishedRun:
    """A run directory, of a finished run or of one that is under way. A table without rows: not written yet."""

    run_dir: RunDir
    recipe: Recipe

    def stages(self) -> dict[str, str]:
        """Stage -> `done`, `new` or `changed`."""
        return {str(name): state.status for name, state in stage_states(self.recipe, None, self.run_dir).items()}

    def prompts(self, benchmark: str = "") -> pa.Table:
        """The training prompts, or a benchmark's problems: columns of `distill.core.schema.Prompt`.

        Raises:
            InputError: the recipe has no such benchmark.
        """
        if benchmark:
            _require("benchmark", benchmark, self.recipe.evaluate.benchmarks)
        return self.run_dir.read_table(*(benchmark_problems(benchmark) if benchmark else PROMPTS), row_type=Prompt)

    def pool(self, teacher: str) -> pa.Table:
        """The traces of a teacher with their verdicts: columns of `distill.core.schema.Trace`.

        Raises:
            InputError: the recipe has no such teacher.
        """
        _require("teacher", teacher, [one.name for one in self.recipe.teachers])
        index = self.run_dir.read_table(*VERDICTS, row_type=IndexRow, columns=("pool", "fingerprint"))
        own = index.filter(pc.equal(index.column("pool"), teacher)).column("fingerprint").unique().to_pylist()
        # A pool of an earlier recipe has another fingerprint, and stands beside the present one.
        tables = [self.run_dir.read_table(*pool_shards(f"{teacher}-{one}"), row_type=Trace) for one in own]
        return pa.concat_tables(tables) if tables else arrow_schema(Trace).empty_table()

    def arm(self, mix: str) -> pa.Table:
        """What an arm teaches, a row per example: columns of `distill.core.schema.Example`.

        Raises:
            InputError: the recipe has no such mix.
        """
        _require("mix", mix, [one.name for one in self.recipe.mixes])
        return self.run_dir.read_table(*arm_examples(mix), row_type=Example)

    def scores(self) -> pa.Table:
        """Every graded answer of every model of the recipe: columns of `distill.core.schema.Score`."""
        tables = [
            self.run_dir.read_table(*benchmark_scores(model.name, benchmark), row_type=Score)
            for benchmark in self.recipe.evaluate.benchmarks
            for model in expected_models(self.recipe)
        ]
        return pa.concat_tables(tables)

    def report(self) -> Report:
        """Scores with intervals, comparisons, pools: all numbers of report.html."""
        return stored_report(self.recipe, self.run_dir) or build_report(self.recipe, self.run_dir)


def _require(what: str, name: str, known: Iterable[str]) -> None:
    if name not in (names := list(known)):
        raise InputError(f"the recipe has no {what} {name!r} -> {one_of(name, names)}")


def open_finished(uri: str) -> FinishedRun:
    """A run that exists.

    Raises:
        InputError: there is none, or another version wrote it.
    """
    run_dir = open_run(uri)
    return FinishedRun(run_dir, load_run_recipe(run_dir))


def plan(recipe: Recipe, base: Path, uri: str, cluster: str) -> RunPlan:
    """What a run would take.

    Args:
        recipe: checked.
        base: folder that the recipe's relative paths are relative to.
        uri: of the run, which may not exist yet.
        cluster: to plan for, as `distill plan --cluster` takes it; empty: what is here.

    Raises:
        ConfigError, InputError: as of `plan_recipe` and `forecast_recipe`.
    """
    run_dir = RunDir(uri)
    machines = planned_machines(recipe, cluster)
    fetch_settings(recipe, Console(file=StringIO()))
    training = plan_recipe(recipe, base, run_dir, machines)
    return RunPlan(training, forecast_recipe(recipe, run_dir, machines))
