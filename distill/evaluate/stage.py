"""Stage 6 as a step of a run: what has no score is asked, in waves of as many engines as may be up at once."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from distill.core.run_dir import Manifest, RunDir
from distill.core.schema import Prompt, Score
from distill.evaluate.models import (
    Evaluated,
    endpoints,
    engines_at_once,
    evaluated_models,
    helped_models,
    same_weights,
    serve_config,
    with_helped,
)
from distill.evaluate.requests import Item, asked, items
from distill.evaluate.score import Address, Place, score_items, unscored, write_scores
from distill.run.context import Run
from serve.config import group_engines
from serve.dataset_client import BatchConfig
from serve.deploy import deploy, undeploy


def evaluate_stage(current: Run) -> Manifest:
    """Score every model on every benchmark that has no score yet."""
    unhelped = evaluated_models(current.recipe, current.models, current.run_dir)
    wanted, times = score_models(current, [*unhelped, *helped_models(current.recipe, unhelped)], unhelped)
    scores = [current.run_dir.read_manifest(*item.folder) for item in wanted]
    counted = [manifest for manifest in scores if manifest is not None]
    errors = sum(manifest.drops.get("error", 0) for manifest in counted)
    rows_in = sum(manifest.rows_in for manifest in counted)
    return Manifest(
        stage="evaluate",
        key="",
        rows_in=rows_in,
        rows_out=rows_in - errors,
        drops={"error": errors} if errors else {},
        details={"scores": len(counted), "this_session": times},
    )


class Scored(NamedTuple):
    """What is scored now, whenever it was, and what this session's part took: counts and seconds by name."""

    items: list[Item]
    times: dict[str, float]


def score_models(current: Run, evaluated: Sequence[Evaluated], unhelped: Sequence[Evaluated]) -> Scored:
    """Score models on the recipe's benchmarks.

    Args:
        current: the run; only scores that are not there yet are computed.
        evaluated: the models.
        unhelped: all models that can help others.
    """
    recipe, run_dir = current.recipe, current.run_dir
    benchmarks = {name: _problems(run_dir, name) for name in recipe.evaluate.benchmarks}
    wanted, first = items(evaluated, benchmarks, recipe), same_weights(evaluated)
    todo = list(unscored(wanted, run_dir))
    if len(todo) < len(wanted):
        current.console.print(f"  {len(wanted) - len(todo)} of {len(wanted)} scores are there already")
    alone = [item for item in todo if first[item.model.name] == item.model.name]
    models = list({item.model.name: item.model for item in alone}.values())
    times: defaultdict[str, float] = defaultdict(float)
    for wave in with_helped(models, unhelped, engines_at_once(recipe.serve, current.session) if models else 1):
        open_items = [item for item in unscored(alone, run_dir) if item.model in wave]
        for name, value in _score_wave(current, wave, open_items, benchmarks).items():
            times[name] += value
    for item in todo:
        if item not in alone:
            _copy_score(run_dir, item, first[item.model.name])
    return Scored(wanted, {name: round(value, 2) for name, value in times.items()})


def _problems(run_dir: RunDir, name: str) -> list[Prompt]:
    table = run_dir.read_table("prompts", "benchmarks", f"{name}.parquet", row_type=Prompt)
    return [Prompt(**row) for row in table.to_pylist()]


def _score_wave(
    current: Run, wave: Sequence[Evaluated], todo: Sequence[Item], benchmarks: Mapping[str, Sequence[Prompt]]
) -> dict[str, float]:
    """Score a wave of models; how long engines took to come up and go and the answers to be there, and of how many."""
    recipe, session = current.recipe, current.session
    config = serve_config(recipe.serve, session.device, port=0)
    current.console.print(f"  [dim]starting the engines of {', '.join(model.name for model in wave)} ...[/]")
    began = time.monotonic()
    url = deploy(endpoints(wave), config, log_dir=session.log_dir)
    is_up = time.monotonic()
    place = Place(current.run_dir, current.console, recipe.verify)
    batch = BatchConfig(max_in_flight=recipe.evaluate.max_in_flight)
    try:
        # One after another fills an engine's batch, which is what counts on a CPU; GPUs of their own work side by side.
        score_items(todo, benchmarks, recipe, place, Address(url, batch, one_by_one=session.device == "cpu"))
        is_answered = time.monotonic()
    finally:
        undeploy()
    return {
        "waves": 1,
        "engines": len(group_engines(endpoints(wave))),
        "answers": sum(
            len(benchmarks[item.benchmark]) * asked(recipe.evaluate, item.benchmark).num_samples for item in todo
        ),
        "start_s": is_up - began,
        "ask_s": is_answered - is_up,
        "stop_s": time.monotonic() - is_answered,
    }


def _copy_score(run_dir: RunDir, item: Item, other: str) -> None:
    """Give a model the scores of another name for the same weights."""
    rows = run_dir.read_table("evaluate", other, f"{item.benchmark}.parquet", row_type=Score).to_pylist()
    scores = [Score(**{**row, "model": item.model.name}) for row in rows]
    write_scores(run_dir, item, scores)
