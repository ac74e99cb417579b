"""Weights for arms with `weights = "auto"`: mixes tried in short runs on a development set, before the arms are drawn.

Every round is a small run of its own under `RUN/search/`: its mixes are drawn, trained and scored by the stages that
every run uses, all students' trials side by side. What is finished is never done again. Nothing of it is reported as a
result of the students: the development set chose the weights, so it flatters them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.config.recipe import Recipe
from distill.config.search import SearchConfig
from distill.core.run_dir import Manifest, RunDir, now
from distill.core.schema import content_hash, seed_for
from distill.evaluate.models import evaluated_models
from distill.evaluate.read_scores import Scored, expected_models, outcome_shares, read_scored
from distill.evaluate.stage import score_models
from distill.evaluate.statistics import accuracy_interval
from distill.evaluate.variance import Shares
from distill.mix.auto_weights import Weights, searched_arms, settled, settled_mix
from distill.mix.stage import mix_stage
from distill.run.context import Run
from distill.search.successive_halving import Choice, choose, num_kept, steps_of_round, weight_grid
from distill.train.stage import train_stage

FOLDER = "search"
Trials = Mapping[str, Sequence[Weights]]
"""Arm -> the mixes that it still tries."""


def search_and_mix(current: Run) -> Manifest:
    """Stage 4: find the weights that the recipe leaves open, then draw every arm."""
    found = search(current)
    if not found:
        return mix_stage(current)
    chosen = {name: entry["weights"] for name, entry in found.items()}
    manifest = mix_stage(current.on(settled(current.recipe, chosen), current.run_dir))
    return dataclasses.replace(manifest, details={**manifest.details, "search": found})


def search(current: Run) -> dict[str, dict[str, Any]]:
    """Arm -> its weights and how they were found; nothing where no arm is left open."""
    config, arms = current.recipe.search, searched_arms(current.recipe)
    if config is None or not arms:
        return {}
    _ = current.session, current.models, current.pools  # the rounds use these very ones
    trials: Trials = {name: weight_grid(mix.pools, config.grid) for name, mix in arms.items()}
    found: dict[str, dict[str, Any]] = {name: {"rounds": []} for name in arms}
    number = 0
    while open_trials := {name: tried for name, tried in trials.items() if len(tried) > 1}:
        number += 1
        records = _round(current, config, open_trials, number)
        kept = {name: [open_trials[name][place] for place in record["kept"]] for name, record in records.items()}
        trials = {**trials, **kept}
        for name, record in records.items():
            found[name]["rounds"].append(record)
    for name, (weights,) in trials.items():
        found[name] |= {"weights": dict(weights), "benchmark": config.benchmark, "student": _student(current, name)}
        shares = ", ".join(f"{pool} {share:g}" for pool, share in weights.items())
        current.console.print(f"  {name}: {shares}, chosen on {config.benchmark}", markup=False)
    return found


def _student(current: Run, arm: str) -> str:
    mix = searched_arms(current.recipe)[arm]
    return (*mix.students, current.recipe.students[0].name)[0]


def _round(current: Run, config: SearchConfig, trials: Trials, number: int) -> dict[str, dict[str, Any]]:
    """Train and score every mix that is left; per arm what was found, kept for the next time."""
    recipe = round_recipe(current.recipe, config, trials, number)
    inside = current.on(recipe, current.run_dir.nested(FOLDER, f"round-{number}"))
    key = content_hash(recipe.model_dump(mode="json"), [pool.fingerprint for pool in inside.pools], _traces(current))
    if inside.run_dir.is_complete(key):
        manifest = inside.run_dir.read_manifest()
        assert manifest is not None
        return dict(manifest.details["arms"])
    current.console.print(
        f"  [dim]search, round {number}: {len(recipe.mixes)} mixes x {len(recipe.train.seeds)} seeds, "
        f"{recipe.train.num_steps} steps each[/]"
    )
    inside.run_dir.write_manifest(mix_stage(inside), "mix")
    inside.run_dir.write_manifest(train_stage(inside), "train")
    trained = evaluated_models(recipe, inside.models, inside.run_dir)[len(recipe.students) :]
    score_models(inside, trained, trained)
    arms = {name: _record(inside, name, mixes, number, config.keep) for name, mixes in trials.items()}
    inside.run_dir.write_manifest(Manifest("search", key, finished_at=now(), details={"arms": arms}))
    return arms


def _traces(current: Run) -> str:
    """What stands for the prompts and traces that the mixes are drawn from, edited input files included."""
    verify = current.run_dir.read_manifest("verify")
    return verify.key if verify else ""


def round_recipe(recipe: Recipe, config: SearchConfig, trials: Trials, number: int) -> Recipe:
    """The small run of a round: the mixes in question, short trainings, the development set."""
    arms = searched_arms(recipe)
    mixes = [
        settled_mix(arms[name], weights, trial_name(name, weights))
        for name, tried in trials.items()
        for weights in tried
    ]
    num_steps = steps_of_round(number, config.num_steps, config.keep)
    budget = {"budget": "steps", "num_steps": num_steps, "num_tokens": None, "early_prompts": None}
    asked = {"benchmarks": (config.benchmark,), "speculative": (), "repeated": {}}
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
    """`auto.25-75`: an arm and the percents of its pools in their order."""
    return f"{arm}." + "-".join(f"{share * 100:.0f}" for share in weights.values())


def _record(inside: Run, arm: str, tried: Sequence[Weights], number: int, keep: float) -> dict[str, Any]:
    """What a round found of one arm, as the manifest and the report have it."""
    recipe = inside.recipe
    scores = [_scores(recipe, inside.run_dir, trial_name(arm, weights)) for weights in tried]
    rng, going_on = np.random.default_rng(seed_for("search", recipe.seed, arm, number)), num_kept(len(tried), keep)
    choice: Choice = choose(scores, going_on, rng)
    intervals = [accuracy_interval(np.nan_to_num(one, nan=0.0)) for one in scores]
    return {
        "num_steps": recipe.train.num_steps,
        "seeds": list(recipe.train.seeds),
        "problems": scores[0].shape[1],
        "weights": [dict(weights) for weights in tried],
        "accuracies": choice.accuracies,
        "intervals": [[interval.low, interval.high] for interval in intervals],
        "kept": choice.kept,
        "kept_share": choice.kept_share,
    }


def _scores(recipe: Recipe, run_dir: RunDir, mix: str) -> Shares:
    (benchmark,) = recipe.evaluate.benchmarks
    runs: list[Scored] = [
        read_scored(run_dir, model, benchmark) for model in expected_models(recipe) if model.mix == mix
    ]
    return outcome_shares(runs, np.unique(runs[0].prompt_ids))
