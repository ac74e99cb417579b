"""What quantisation cost: the files that `distill publish --score` wrote and asked, each against its full weights."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, benchmark_scores, quantised_folders
from distill.core.schema import seed_for
from distill.evaluate.power import ALPHA
from distill.evaluate.read_scores import (
    Scored,
    ScoredModel,
    expected_models,
    models_by_itself,
    outcome_shares,
    read_scored,
)
from distill.evaluate.statistics import Difference, holm, paired_difference
from distill.report.model_scores import model_score
from distill.report.score_data import QuantisedScore


@dataclass(frozen=True)
class _Found:
    full: Scored
    quantised: Scored
    difference: Difference


def quantised_name(cell: str, kind: str, mode: str = "") -> str:
    """Name that a quantised student is scored under: `smol@mix/q4_k_m`, or `smol@mix/q4_k_m:long` in a mode."""
    return f"{cell}/{kind}" + (f":{mode}" if mode else "")


def quantised_models(recipe: Recipe, run_dir: RunDir) -> Iterator[tuple[ScoredModel, ScoredModel]]:
    """Every model with each of its quantised files that was scored as it was: in its mode, or left to choose."""
    for cell in dict.fromkeys(model.cell for model in expected_models(recipe) if model.cell):
        full = models_by_itself(recipe, cell)
        for path in run_dir.matching(*quantised_folders(cell)):
            kind, _, mode = path.rsplit("/", 1)[1].partition(":")
            name = quantised_name(cell, kind, mode)
            is_scored = any(run_dir.exists(*benchmark_scores(name, one)) for one in recipe.evaluate.benchmarks)
            if mode in full and is_scored:
                yield full[mode], replace(full[mode], name=name, mix=f"{full[mode].mix}/{kind}", cell="")


def quantised_scores(recipe: Recipe, run_dir: RunDir) -> list[QuantisedScore]:
    """Every quantised file on every benchmark against its full weights: paired, corrected over all of them.

    An interval is drawn from a seed of its own, so that card and report say the same.
    """
    found = []
    for full, quantised in quantised_models(recipe, run_dir):
        for benchmark in recipe.evaluate.benchmarks:
            first, second = (read_scored(run_dir, one, benchmark) for one in (quantised, full))
            common = np.intersect1d(first.prompt_ids, second.prompt_ids)
            shares = [outcome_shares([one], common) for one in (first, second)] if len(common) else []
            if shares and not np.isnan(shares[0] + shares[1]).all():
                rng = np.random.default_rng(seed_for("quantised", recipe.seed, quantised.name, benchmark))
                found.append(_Found(second, first, paired_difference(shares[0], shares[1], rng)))
    adjusted = holm([one.difference.p_value for one in found])
    return [_score(one, p_value) for one, p_value in zip(found, adjusted, strict=True)]


def _score(one: _Found, p_adjusted: float) -> QuantisedScore:
    score, difference = model_score(one.quantised), one.difference
    return QuantisedScore(
        model=one.quantised.model,
        full=one.full.model,
        benchmark=one.quantised.benchmark,
        accuracy=score.accuracy,
        interval=score.interval,
        full_accuracy=model_score(one.full).accuracy,
        difference=difference.estimate,
        difference_interval=difference.interval,
        p_adjusted=p_adjusted,
        num_prompts=difference.num_prompts,
        mean_tokens=score.mean_tokens,
        truncated=score.truncated,
        errors=score.errors,
        is_shown=p_adjusted < ALPHA and not difference.interval.covers(0.0),
    )
