"""Stage 1 as a step of a run: benchmarks first, then prompts that are new, whole, and in no benchmark."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from distill.config.benchmarks import BenchmarkConfig
from distill.config.recipe import benchmark_configs
from distill.core.errors import InputError
from distill.core.run_dir import Manifest
from distill.core.schema import Dropped, Prompt
from distill.prompts.clean import clean_prompts
from distill.prompts.load import Loaded, choose, count_reasons, load_prompts
from distill.run.context import Run


class Benchmarks(NamedTuple):
    """The benchmarks' problems by name, the rows of theirs that cannot be used, and the commits that were read."""

    prompts: dict[str, list[Prompt]]
    drops: list[Dropped]
    commits: dict[str, str]


def prompts_stage(current: Run) -> Manifest:
    """Read and clean the prompts; the benchmarks first, since no training prompt may be in one."""
    benchmarks = load_benchmarks(current)
    loaded = load_training(current, benchmarks.prompts)
    current.run_dir.write_rows(loaded.prompts, Prompt, "prompts", "prompts.parquet")
    current.run_dir.write_drops([*loaded.drops, *benchmarks.drops], "prompts")
    reasons, sizes = count_reasons(loaded.drops), {name: len(rows) for name, rows in benchmarks.prompts.items()}
    current.console.print(f"  {len(loaded.prompts)} prompts, dropped: {reasons or 'none'}; benchmarks: {sizes}")
    return Manifest(
        stage="prompts",
        key="",
        rows_in=len(loaded.prompts) + len(loaded.drops),
        rows_out=len(loaded.prompts),
        drops=reasons,
        details={"benchmarks": sizes, "commits": {**loaded.commits, **benchmarks.commits}},
    )


def load_benchmarks(current: Run) -> Benchmarks:
    """Read every benchmark of the recipe and write it into the run directory.

    Raises:
        InputError: a benchmark has no usable problem.
    """
    prompts: dict[str, list[Prompt]] = {}
    drops: list[Dropped] = []
    commits: dict[str, str] = {}
    for name, benchmark in benchmark_configs(current.recipe).items():
        limit, seed = current.recipe.prompts.max_problem_chars, current.recipe.seed
        loaded = read_benchmark(name, benchmark, current.base, max_problem_chars=limit, seed=seed)
        if name not in current.recipe.evaluate.benchmarks:
            loaded = without_reported(name, loaded, prompts)
        current.run_dir.write_rows(loaded.prompts, Prompt, "prompts", "benchmarks", f"{name}.parquet")
        prompts[name] = loaded.prompts
        drops += [dataclasses.replace(drop, where=f"{name}/{drop.where}") for drop in loaded.drops]
        commits |= loaded.commits
    return Benchmarks(prompts, drops, commits)


def without_reported(name: str, loaded: Loaded, reported: Mapping[str, Sequence[Prompt]]) -> Loaded:
    """A development set without the problems that are evaluated: what chose the mix must not be reported.

    Raises:
        InputError: nothing else is in it.
    """
    where = {prompt.prompt_id: benchmark for benchmark, rows in reported.items() for prompt in rows}
    kept = [prompt for prompt in loaded.prompts if prompt.prompt_id not in where]
    drops = [
        Dropped("prompts", prompt.source, "evaluated_as_well", f"in {where[prompt.prompt_id]}", prompt.problem[:2000])
        for prompt in loaded.prompts
        if prompt.prompt_id in where
    ]
    if not kept:
        raise InputError(f"search.benchmark: every problem of {name} is evaluated as well -> choose another set")
    return loaded._replace(prompts=kept, drops=[*loaded.drops, *drops])


def read_benchmark(name: str, config: BenchmarkConfig, base: Path, *, max_problem_chars: int, seed: int) -> Loaded:
    """The problems of one benchmark.

    Raises:
        InputError: it has no usable problem.
    """
    loaded = load_prompts(
        [config.source], base=base, max_problem_chars=max_problem_chars, num_prompts=config.num_prompts, seed=seed
    )
    if not loaded.prompts:
        raise InputError(f"benchmarks.{name}: no usable prompt ({count_reasons(loaded.drops)}) -> correct its source")
    return loaded


def load_training(current: Run, benchmarks: dict[str, list[Prompt]]) -> Loaded:
    """Read the training prompts, clean them, then choose as many as are wanted.

    Raises:
        InputError: no usable prompt is left.
    """
    config = current.recipe.prompts
    loaded = load_prompts(
        config.sources,
        base=current.base,
        max_problem_chars=config.max_problem_chars,
        num_prompts=None,
        seed=current.recipe.seed,
        exclude={prompt.prompt_id: name for name, rows in benchmarks.items() for prompt in rows},
    )
    cleaned = clean_prompts(loaded.prompts, benchmarks, config, connect=lambda: current.session)
    chosen = choose(cleaned.prompts, [*loaded.drops, *cleaned.drops], config.num_prompts, current.recipe.seed)
    if not chosen.prompts:
        raise InputError(f"prompts: no usable row ({count_reasons(chosen.drops)}) -> correct prompts.sources")
    return chosen._replace(commits=loaded.commits)
