"""Stage 1, prompts: benchmarks first, then training prompts that are new, whole, and in no benchmark.

sources -> load -> benchmarks, duplicates, near duplicates, decontamination -> prompts/prompts.parquet
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distill.config.benchmarks import BenchmarkConfig
from distill.config.prompts import PromptsConfig
from distill.config.recipe import benchmark_configs
from distill.core.errors import InputError
from distill.core.manifest import Manifest
from distill.core.run_dir import PROMPTS, StageName, benchmark_problems
from distill.core.schema import Dropped, Prompt
from distill.prompts.clean import clean_prompts
from distill.prompts.gradable import without_ungradable
from distill.prompts.load import Loaded, choose, count_reasons, load_prompts
from distill.run.context import RunContext


class Benchmarks(NamedTuple):
    """The benchmarks' problems by name, the rows of theirs that cannot be used, and the commits that were read."""

    prompts: dict[str, list[Prompt]]
    drops: list[Dropped]
    commits: dict[str, str]
    reasons: dict[str, dict[str, int]]
    """Rows of each benchmark that are not asked, by reason; a benchmark that has none is not in it."""


def prompts_stage(run: RunContext) -> Manifest:
    """Read and clean the prompts; the benchmarks first, since no training prompt may be in one."""
    recipe, run_dir = run.recipe, run.run_dir
    benchmarks = load_benchmarks(
        benchmark_configs(recipe),
        recipe.evaluate.benchmarks,
        run.base,
        max_problem_chars=recipe.prompts.max_problem_chars,
        seed=recipe.seed,
    )
    loaded = load_training(recipe.prompts, benchmarks.prompts, run.base, seed=recipe.seed, connect=lambda: run.session)
    for name, problems in benchmarks.prompts.items():
        run_dir.write_rows(problems, Prompt, *benchmark_problems(name))
    run_dir.write_rows(loaded.prompts, Prompt, *PROMPTS)
    run_dir.write_drops([*loaded.drops, *benchmarks.drops], StageName.PROMPTS)
    reasons = left_out(loaded)
    sizes = {name: len(rows) for name, rows in benchmarks.prompts.items()}
    said = f"  {len(loaded.prompts)} prompts, dropped: {reasons or 'none'}; benchmarks: {sizes}"
    run.console.print(said, markup=False)
    for name, why in benchmarks.reasons.items():
        run.console.print(f"  of benchmark {name} dropped: {why}", markup=False)
    return Manifest(
        stage=StageName.PROMPTS,
        key="",
        rows_in=len(loaded.prompts) + sum(reasons.values()),
        rows_out=len(loaded.prompts),
        drops=reasons,
        details={
            "benchmarks": sizes,
            "benchmark_drops": benchmarks.reasons,
            "commits": {**loaded.commits, **benchmarks.commits},
            "reference_origins": dict(Counter(prompt.reference_origin for prompt in loaded.prompts)),
        },
    )


def load_benchmarks(
    configs: Mapping[str, BenchmarkConfig],
    reported: Sequence[str],
    base: Path,
    *,
    max_problem_chars: int,
    seed: int,
) -> Benchmarks:
    """Read every benchmark, those that are reported first.

    Raises:
        InputError: a benchmark has no usable problem.
    """
    prompts: dict[str, list[Prompt]] = {}
    drops: list[Dropped] = []
    commits: dict[str, str] = {}
    reasons: dict[str, dict[str, int]] = {}
    for name, config in configs.items():
        loaded = read_benchmark(name, config, base, max_problem_chars=max_problem_chars, seed=seed)
        if name not in reported:
            loaded = without_reported(name, loaded, prompts)
        prompts[name] = loaded.prompts
        drops += [dataclasses.replace(drop, where=f"{name}/{drop.where}") for drop in loaded.drops]
        commits |= loaded.commits
        if why := left_out(loaded):
            reasons[name] = why
    return Benchmarks(prompts, drops, commits, reasons)


def left_out(loaded: Loaded) -> dict[str, int]:
    """Rows that became no prompt, by reason."""
    return {**count_reasons(loaded.drops), **loaded.skipped}


def without_reported(name: str, loaded: Loaded, reported: Mapping[str, Sequence[Prompt]]) -> Loaded:
    """A development set without the problems that are evaluated: what chose the mix must not be reported.

    Raises:
        InputError: nothing else is in it.
    """
    where = {prompt.prompt_id: benchmark for benchmark, rows in reported.items() for prompt in rows}
    kept = [prompt for prompt in loaded.prompts if prompt.prompt_id not in where]
    drops = [_reported(prompt, where[prompt.prompt_id]) for prompt in loaded.prompts if prompt.prompt_id in where]
    if not kept:
        raise InputError(f"search.benchmark: every problem of {name} is evaluated as well -> choose another set")
    return loaded._replace(prompts=kept, drops=[*loaded.drops, *drops])


def _reported(prompt: Prompt, benchmark: str) -> Dropped:
    detail = f"in {benchmark}"
    return Dropped(StageName.PROMPTS, prompt.source, "evaluated_as_well", detail, prompt.problem[:2000])


def read_benchmark(name: str, config: BenchmarkConfig, base: Path, *, max_problem_chars: int, seed: int) -> Loaded:
    """The problems of one benchmark.

    Raises:
        InputError: it has no usable problem.
    """
    found = load_prompts([config.source], base=base, max_problem_chars=max_problem_chars, num_prompts=None, seed=seed)
    usable = without_ungradable(found)
    chosen = choose(usable.prompts, usable.drops, config.num_prompts, seed)
    loaded = found._replace(prompts=chosen.prompts, drops=chosen.drops)
    if not loaded.prompts:
        raise InputError(f"benchmarks.{name}: no usable prompt ({left_out(loaded)}) -> correct its source")
    return loaded


def load_training(
    config: PromptsConfig,
    benchmarks: Mapping[str, list[Prompt]],
    base: Path,
    *,
    seed: int,
    connect: Callable[[], Any],
) -> Loaded:
    """Read the training prompts, clean them, then choose as many as are wanted.

    `connect`: joins the cluster; called where there is so much text that cleaning is spread over it.

    Raises:
        InputError: no usable prompt is left.
    """
    found = load_prompts(
        config.sources,
        base=base,
        max_problem_chars=config.max_problem_chars,
        num_prompts=None,
        seed=seed,
        exclude={prompt.prompt_id: name for name, rows in benchmarks.items() for prompt in rows},
    )
    loaded = without_ungradable(found)
    cleaned = clean_prompts(loaded.prompts, benchmarks, config, connect=connect)
    kept = choose(cleaned.prompts, [*loaded.drops, *cleaned.drops], config.num_prompts, seed)
    chosen = kept._replace(commits=loaded.commits, skipped=loaded.skipped)
    if not chosen.prompts:
        raise InputError(f"prompts: no usable row ({left_out(chosen)}) -> correct prompts.sources")
    return chosen
