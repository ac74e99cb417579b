"""Stage 4, search: finds the weights of arms with `weights = "auto"` by successive halving.

    candidate mixes -> train for a few steps -> score on a development set -> keep the better ones -> ... -> weights

Every round is a small run of its own under `search/`, made with the stages of any run, for all searched arms at once. A
finished round is never repeated. Its scores are not reported as results: the weights were chosen on the development
set, so they are biased upwards there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.config.identity import stage_parts
from distill.config.recipe import Recipe
from distill.config.search import SearchConfig
from distill.core.manifest import Manifest, now
from distill.core.run_dir import RunDir, StageName, search_round
from distill.core.schema import content_hash, seed_for
from distill.evaluate.models import evaluated_models
from distill.evaluate.read_scores import Scored, expected_models, outcome_shares, read_scored
from distill.evaluate.score_models import score_models
from distill.evaluate.statistics import accuracy_interval
from distill.evaluate.variance import Shares
from distill.mix.auto_weights import Weights, auto_arms, weighted_arm
from distill.mix.stage import mix_stage
from distill.run.context import RunContext
from distill.search.successive_halving import num_kept, select_best, steps_of_round, weight_grid
from distill.train.stage import train_stage

Trials = Mapping[str, Sequence[Weights]]
"""Arm -> the weights that are still candidates."""


def search_stage(run: RunContext) -> Manifest:
    """Find the weights of all arms with `weights = "auto"`; does nothing where there are none."""
    recipe, config, arms = run.recipe, run.recipe.search, auto_arms(run.recipe)
    if config is None or not arms:
        return Manifest(stage=StageName.SEARCH, key="", details={"arms": {}})
    trials: Trials = {name: weight_grid(mix.pools, config.grid) for name, mix in arms.items()}
    found: dict[str, dict[str, Any]] = {name: {"rounds": []} for name in arms}
    number = 0
    while open_trials := {name: candidates for name, candidates in trials.items() if len(candidates) > 1}:
        number += 1
        inner = run.nested(round_recipe(recipe, config, open_trials, number), search_round(number))
        records = run_round(inner, config, open_trials, number)
        kept = {name: [open_trials[name][position] for position in record["kept"]] for name, record in records.items()}
        trials = {**trials, **kept}
        for name, record in records.items():
            found[name]["rounds"].append(record)
    for name, (weights,) in trials.items():
        found[name] |= {"weights": dict(weights), "benchmark": config.benchmark, "student": _student(recipe, name)}
        shares = ", ".join(f"{pool} {share:g}" for pool, share in weights.items())
        run.console.print(f"  {name}: {shares}, chosen on {config.benchmark}", markup=False)
    return Manifest(stage=StageName.SEARCH, key="", details={"arms": found})


def _student(recipe: Recipe, arm: str) -> str:
    return (*auto_arms(recipe)[arm].students, recipe.students[0].name)[0]


def run_round(inner: RunContext, config: SearchConfig, trials: Trials, number: int) -> dict[str, dict[str, Any]]:
    """Mix, train and score all candidates of a round, or read the round where it is done. Returns a record per arm."""
    recipe, run_dir = inner.recipe, inner.run_dir
    verify = run_dir.read_manifest(StageName.VERIFY)
    # The verify stage's key identifies the traces that are mixed, edited input files included.
    fingerprints = [pool.fingerprint for pool in inner.pools]
    key = content_hash(stage_parts(recipe), config.keep, fingerprints, verify.key if verify else "")
    finished = run_dir.read_manifest()
    if finished is not None and finished.key == key:
        return dict(finished.details["arms"])
    inner.console.print(
        f"  [dim]search, round {number}: {len(recipe.mixes)} mixes x {len(recipe.train.seeds)} training seeds, "
        f"{recipe.train.num_steps} steps each[/]"
    )
    run_dir.write_manifest(mix_stage(inner), StageName.MIX)
    run_dir.write_manifest(train_stage(inner), StageName.TRAIN)
    trained = evaluated_models(recipe, inner.models, run_dir)[len(recipe.students) :]
    score_models(recipe, run_dir, lambda: inner.session, inner.console, evaluated=trained, plain=trained)
    arms = {name: _record(recipe, run_dir, name, tried, number, config.keep) for name, tried in trials.items()}
    run_dir.write_manifest(Manifest(StageName.SEARCH, key, finished_at=now(), details={"arms": arms}))
    return arms


def round_recipe(recipe: Recipe, config: SearchConfig, trials: Trials, number: int) -> Recipe:
    """The recipe of a round: the candidate mixes, short trainings, and the development set as the only benchmark."""
    arms = auto_arms(recipe)
    mixes = [
        weighted_arm(arms[name], weights, trial_name(name, weights))
        for name, tried in trials.items()
        for weights in tried
    ]
    num_steps = steps_of_round(number, config.num_steps, config.keep)
    budget = {"budget": "steps", "num_steps": num_steps, "num_tokens": None}
    asked = {"benchmarks": (config.benchmark,), "arms": (), "repeated": {}}
    update = {
        "mixes": tuple(mixes),
        "merges": (),
        "search": None,
        "train": recipe.train.model_copy(update=budget | {"seeds": config.seeds, "trackers": ()}),
        "evaluate": recipe.evaluate.model_copy(update=asked),
    }
    inside = recipe.model_copy(update=update)
    taught = [one for one in recipe.students if any(inside.takes(one.name, mix.name) for mix in mixes)]
    return inside.model_copy(update={"students": tuple(taught)})


def trial_name(arm: str, weights: Weights) -> str:
    """`auto.25-75`: the arm and the percentages of its pools in their order."""
    return f"{arm}." + "-".join(f"{share * 100:.0f}" for share in weights.values())


def _record(
    recipe: Recipe, run_dir: RunDir, arm: str, tried: Sequence[Weights], number: int, keep: float
) -> dict[str, Any]:
    """What a round found for one arm, for the manifest and the report."""
    scores = [_scores(recipe, run_dir, trial_name(arm, weights)) for weights in tried]
    rng = np.random.default_rng(seed_for("search", recipe.seed, arm, number))
    best = select_best(scores, num_kept(len(tried), keep), rng)
    intervals = [accuracy_interval(np.nan_to_num(one, nan=0.0)) for one in scores]
    return {
        "num_steps": recipe.train.num_steps,
        "seeds": list(recipe.train.seeds),
        "problems": scores[0].shape[1],
        "weights": [dict(weights) for weights in tried],
        "accuracies": best.accuracies,
        "intervals": [[interval.low, interval.high] for interval in intervals],
        "kept": best.kept,
        "kept_share": best.kept_share,
    }


def _scores(recipe: Recipe, run_dir: RunDir, mix: str) -> Shares:
    (benchmark,) = recipe.evaluate.benchmarks
    runs: list[Scored] = [
        read_scored(run_dir, model, benchmark) for model in expected_models(recipe) if model.mix == mix
    ]
    return outcome_shares(runs, np.unique(runs[0].prompt_ids))
