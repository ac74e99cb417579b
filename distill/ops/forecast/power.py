"""The sentence of power: which true difference the report of a run will be able to show, said before the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console

from distill.config.question import Candidate, candidates
from distill.config.recipe import Recipe
from distill.core.run_dir import RECIPE, RunDir
from distill.evaluate.power import CAUTIOUS, POWER, Spread, observed_spread, planned_difference, planned_terms
from distill.evaluate.read_scores import Scored, outcome_shares, read_scores
from distill.evaluate.variance import Shares
from distill.ops.forecast.inputs import num_problems
from distill.report.regressions import without_regressions
from distill.run.run_recipe import load_run_recipe

NEEDS_PROBLEMS = "power is unknown until problems are counted: set num_prompts of every benchmark"


class Planned(NamedTuple):
    """A difference that is expected to be shown, and what it was computed from."""

    difference: float
    candidates: tuple[tuple[str, Candidate], ...]
    """Student and arm, of the question; none: of any two arms, before correction."""
    benchmarks: Mapping[str, int]
    """Those that the difference is the mean over -> problems."""
    seeds: int
    spread: Spread
    sources: tuple[str, ...]
    """`recipe`, `measured` or `assumed`, as the fields of `spread`."""
    margin_points: float = 0.0
    """By less than so many points an arm of the question may be below the others."""


def planned_power(recipe: Recipe, run_dir: RunDir, measured: RunDir | None = None) -> Planned | None:
    """What the report of a recipe will be able to show; None where the number of problems is unknown.

    Args:
        recipe: checked.
        run_dir: of the run, which may not exist yet; its problems are counted.
        measured: a run to take the outcomes' spread from; by default the run itself.
    """
    problems = num_problems(without_regressions(recipe), run_dir)
    if not problems:
        return None
    named = recipe.question.benchmark if recipe.question else None
    benchmarks = {name: int(count) for name, count in problems.items() if named in (None, name)}
    spread, sources = chosen_spread(recipe, measured_spread(measured or run_dir))
    terms = planned_terms(tuple(benchmarks.values()), len(recipe.train.seeds), spread)
    asked = tuple(_candidates(recipe))
    num_over = max((len(one.over) for _, one in asked), default=1)
    margin_points = recipe.question.margin_points if recipe.question else 0.0
    difference = planned_difference(terms, num_over, max(1, len(asked))) - margin_points / 100
    return Planned(difference, asked, benchmarks, len(recipe.train.seeds), spread, sources, margin_points)


def _candidates(recipe: Recipe) -> Iterator[tuple[str, Candidate]]:
    asked = candidates(recipe.question, recipe.mixes, recipe.merges) if recipe.question else ()
    for student in recipe.students:
        yield from ((student.name, one) for one in asked if recipe.takes_all(student.name, (one.arm, *one.over)))


def chosen_spread(recipe: Recipe, found: Spread | None) -> tuple[Spread, tuple[str, ...]]:
    """The recipe's values, else the measured ones, else the cautious ones; and which they are."""
    settings = Spread(*(getattr(recipe.forecast, name) for name in Spread._fields))
    chosen = [
        (setting, "recipe")
        if setting is not None
        else (seen, "measured")
        if seen is not None
        else (cautious, "assumed")
        for setting, seen, cautious in zip(settings, found or [None] * len(CAUTIOUS), CAUTIOUS, strict=True)
    ]
    return Spread(*(value for value, _ in chosen)), tuple(source for _, source in chosen)


def measured_spread(run_dir: RunDir) -> Spread | None:
    """The spread of a run's outcomes; None where it has not scored two arms of several seeds."""
    if not run_dir.exists(*RECIPE):
        return None
    groups: dict[tuple[str, str], dict[str, list[Scored]]] = {}
    for one in read_scores(without_regressions(load_run_recipe(run_dir)), run_dir):
        if one.mix:
            groups.setdefault((one.student, one.benchmark), {}).setdefault(one.mix, []).append(one)
    return observed_spread([_shares(list(arms.values())) for arms in groups.values()])


def _shares(arms: Sequence[list[Scored]]) -> list[Shares]:
    prompt_ids = np.unique(np.concatenate([run.prompt_ids for runs in arms for run in runs]))
    return [outcome_shares(runs, prompt_ids) for runs in arms]


# Words


def show_power(recipe: Recipe, run_dir: RunDir, console: Console, *, measured: RunDir | None = None) -> None:
    """Print the sentence and what it assumes."""
    found = planned_power(recipe, run_dir, measured)
    for line in (f"power: {power_words(found)}", spread_words(found)) if found else (NEEDS_PROBLEMS,):
        console.print(line, markup=False)


def power_words(one: Planned) -> str:
    """`that an arm of the question is truly 9 points better than both arms it must beat on gsm8k, is shown in ...`."""
    many = len(one.benchmarks) > 1
    where = f"on the mean of {len(one.benchmarks)} benchmarks" if many else f"on {next(iter(one.benchmarks))}"
    problems = " + ".join(f"{count:,}" for count in one.benchmarks.values())
    seeds = "one seed, so for these very weights" if one.seeds == 1 else f"{one.seeds} seeds"
    return (
        f"{_difference_words(one)} {where}, is shown in {POWER * 100:.0f} % of such runs at least (5 % level, "
        f"{_correction_words(len(one.candidates))}; {seeds}; {problems} problems)"
    )


def _difference_words(one: Planned) -> str:
    points = f"{one.difference * 100:.0f} points"
    is_hopeless = one.difference + one.margin_points / 100 > 1 - 1e-9
    if not one.candidates and is_hopeless:
        return "no true difference between two arms, however large,"
    if not one.candidates:
        return f"a true difference of {points} between two arms"
    over = max(len(candidate.over) for _, candidate in one.candidates)
    beaten = {1: "the arm", 2: "both arms"}.get(over, f"all {over} arms")
    if is_hopeless:
        return f"no lead of an arm of the question over {beaten} it is held against, however large,"
    if one.margin_points:
        truly = f"{abs(one.difference) * 100:.0f} points {'above' if one.difference >= 0 else 'below'}"
        return (
            f"that an arm of the question is less than {one.margin_points:g} points below {beaten} it is held against, "
            f"if it is truly {truly},"
        )
    return f"that an arm of the question is truly {points} better than {beaten} it must beat"


def _correction_words(num_tests: int) -> str:
    if not num_tests:
        return "before correction"
    return "one test" if num_tests == 1 else f"Holm-corrected over {num_tests} tests"


def spread_words(one: Planned) -> str:
    """The assumptions, by where they are from."""
    parts = []
    for source, label in (("recipe", "set in the recipe"), ("measured", "measured"), ("assumed", "assumed")):
        named = zip(Spread._fields, one.spread, one.sources, strict=True)
        if listed := ", ".join(f"{name} {value:.2g}" for name, value, origin in named if origin == source):
            parts.append(f"{label}: {listed}")
    return f"power rests on outcomes with {'; '.join(parts)}"
