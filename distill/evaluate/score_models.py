"""Scores models on benchmarks where they have no score yet, in waves of as many engines as may run at once."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from rich.console import Console

from cluster.session import Session
from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, benchmark_scores
from distill.core.schema import Prompt, Score
from distill.evaluate.engine_progress import told_on
from distill.evaluate.models import (
    EvaluatedModel,
    asked_endpoints,
    endpoints,
    engines_at_once,
    engines_at_work,
    partner_of,
    same_weights,
    serve_config,
    with_partners,
    writing_together,
)
from distill.evaluate.proof import check_weights
from distill.evaluate.requests import EvaluationItem, asked_sampling, benchmark_settings, items
from distill.evaluate.score import EndpointAddress, ScoreSink, score_answered, score_items, unscored, write_scores
from distill.evaluate.shared_engines import share_engines
from distill.run.context import read_benchmark
from serve.config import group_engines
from serve.dataset_client import BatchConfig
from serve.deploy import deploy, undeploy
from serve.errors import ServeError


class ScoringResult(NamedTuple):
    """All scored items, also of earlier sessions, and what this session took: counts and seconds by name."""

    items: list[EvaluationItem]
    times: dict[str, float]


def score_models(
    recipe: Recipe,
    run_dir: RunDir,
    connect: Callable[[], Session],
    console: Console,
    *,
    evaluated: Sequence[EvaluatedModel],
    plain: Sequence[EvaluatedModel],
) -> ScoringResult:
    """Score models on the recipe's benchmarks; finished scores are kept.

    Args:
        recipe: benchmarks, sampling and serving.
        run_dir: where scores are kept.
        connect: joins the cluster; called only if there is something to score.
        console: for progress.
        evaluated: the models.
        plain: all models as they answer by themselves: those that can be another's partner.

    Raises:
        InputError: weights are not those that were saved.
    """
    benchmarks = {name: list(read_benchmark(run_dir, name).values()) for name in recipe.evaluate.benchmarks}
    wanted, first = items(evaluated, benchmarks, recipe), same_weights(evaluated)
    sink, todo = ScoreSink(run_dir, console, recipe.verify), list(unscored(wanted, run_dir))
    if len(todo) < len(wanted):
        console.print(f"  {len(wanted) - len(todo)} of {len(wanted)} scores are on disk already")
    todo = score_answered(todo, benchmarks, recipe, sink)
    alone = [item for item in todo if first[item.model.name] == item.model.name]
    times: defaultdict[str, float] = defaultdict(float)
    if alone:
        check_weights(recipe, run_dir, _loaded(alone, plain), console)
        session = connect()
        engines = _Engines(recipe, session, plain, engines_at_once(recipe.serve, session))
        for name, value in _score_in_waves(engines.shared(alone), alone, benchmarks, engines, sink):
            times[name] += value
    for item in todo:
        if item not in alone:
            _copy_score(recipe, run_dir, item, first[item.model.name])
    return ScoringResult(wanted, {name: round(value, 2) for name, value in times.items()})


def _loaded(todo: Sequence[EvaluationItem], plain: Sequence[EvaluatedModel]) -> list[EvaluatedModel]:
    """The models of the items, with those that write a part of their answers."""
    models = {item.model.served_name: item.model for item in todo}
    partners = [partner_of(model, plain) for model in models.values() if model.partner]
    return list({model.served_name: model for model in [*models.values(), *partners]}.values())


class _Engines(NamedTuple):
    """What decides which models are served at the same time, and how."""

    recipe: Recipe
    session: Session
    plain: Sequence[EvaluatedModel]
    at_once: int
    """Engines that fit the cluster."""

    def shared(self, todo: Sequence[EvaluationItem]) -> list[EvaluatedModel]:
        """The models of the items; those that take turns in one engine have its label."""
        models = list({item.model.name: item.model for item in todo}.values())
        max_engines = 1 if self.session.device == "cpu" else self.at_once
        return share_engines(models, self.recipe.serve, max_engines, alone=writing_together(models))

    def waves(self, models: Sequence[EvaluatedModel]) -> list[list[EvaluatedModel]]:
        """Models whose engines fit the cluster together."""
        return with_partners(models, self.plain, self.at_once)


def _score_in_waves(
    models: Sequence[EvaluatedModel],
    todo: Sequence[EvaluationItem],
    benchmarks: Mapping[str, Sequence[Prompt]],
    engines: _Engines,
    sink: ScoreSink,
) -> Iterator[tuple[str, float]]:
    """Counts and seconds of every wave. Where weights cannot be exchanged, each model gets an engine after all."""
    for wave in engines.waves(models):
        by_name = {model.name: model for model in wave}
        open_items = [
            replace(item, model=by_name[item.model.name])
            for item in unscored(todo, sink.run_dir)
            if item.model.name in by_name
        ]
        try:
            yield from _score_wave(wave, open_items, benchmarks, engines, sink).items()
        except ServeError as error:
            if not any(model.shared_engine for model in wave):
                raise
            sink.console.print(f"  one engine for several students failed: {error}", markup=False)
            sink.console.print("  [dim]every student gets an engine of its own[/]")
            alone = [replace(model, shared_engine="") for model in wave]
            yield from _score_in_waves(alone, open_items, benchmarks, engines, sink)


def _score_wave(
    wave: Sequence[EvaluatedModel],
    todo: Sequence[EvaluationItem],
    benchmarks: Mapping[str, Sequence[Prompt]],
    engines: _Engines,
    sink: ScoreSink,
) -> dict[str, float]:
    """Score a wave of models; seconds of starting and stopping its engines and of answering, with counts."""
    recipe, session = engines.recipe, engines.session
    config = serve_config(recipe.serve, session.device, port=0)
    specs = group_engines(endpoints(wave))
    for spec in specs:
        names = ", ".join(endpoint.name for endpoint in spec.endpoints)
        turns = ", whose weights take turns" if spec.in_turn else ""
        sink.console.print(f"  [dim]starting the engine of {names}{turns} ...[/]", highlight=False)
    began = time.monotonic()
    asked = asked_endpoints(wave, recipe.student_chat, recipe.evaluate.reasoning_end)
    url = deploy(asked, config, log_dir=session.log_dir, on_progress=told_on(sink.console))
    is_up = time.monotonic()
    at_once = engines_at_work(len(specs), session.device, session.nodes(), [spec.source for spec in specs])
    batch = BatchConfig(max_in_flight=recipe.evaluate.max_in_flight * at_once)
    try:
        score_items(todo, benchmarks, recipe, sink, EndpointAddress(url, batch, at_once))
        is_answered = time.monotonic()
    finally:
        undeploy()
    num_answers = [
        len(benchmarks[item.benchmark]) * benchmark_settings(recipe.evaluate, item.benchmark).num_samples
        for item in todo
    ]
    return {
        "waves": 1,
        "engines": len(specs),
        "answers": sum(num_answers),
        "start_s": is_up - began,
        "ask_s": is_answered - is_up,
        "stop_s": time.monotonic() - is_answered,
    }


def _copy_score(recipe: Recipe, run_dir: RunDir, item: EvaluationItem, other: str) -> None:
    """Copy the scores of another model with the same weights."""
    rows = run_dir.read_table(*benchmark_scores(other, item.benchmark), row_type=Score).to_pylist()
    scores = [Score(**{**row, "model": item.model.name}) for row in rows]
    write_scores(run_dir, item, scores, asked_sampling(item, recipe))
