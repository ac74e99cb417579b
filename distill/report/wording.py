"""Sentences of the report, computed from the numbers; the recipe decides which arm they describe."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from distill.config.arm_graph import ArmBudget, arm_budgets
from distill.config.recipe import Recipe
from distill.evaluate.interval import Interval
from distill.evaluate.read_scores import expected_models
from distill.report.comparisons import MACRO, blends
from distill.report.data import CellRow
from distill.report.families import main_mixes
from distill.report.formats import bounds, correction, gap_name, percent, points, shown
from distill.report.score_data import ArmScore, Comparison, Detectable, GapChange, MacroScore, ModelScore

MAX_IN_LINE = 4
"""Most comparisons or names in one sentence."""
MAX_FINDINGS = 5
"""Most lines about students above the first plot; the tables have the others."""


def headline(
    recipe: Recipe, arms: Sequence[ArmScore], macros: Sequence[MacroScore], comparisons: Sequence[Comparison]
) -> str:
    """About the first student trained on the first blend (else on the first mix), first stages of others aside: its
    mean over all benchmarks, or the first benchmark where there is one only. Where another arm of that student solves
    more, its score follows."""
    first_stages = {mix.after for mix in recipe.mixes}
    last = [mix for mix in recipe.mixes if mix.name not in first_stages]
    mixes = [mix for mix in main_mixes(recipe) if mix in last] or last
    mix = next(iter((blends(mixes) or mixes)[0].arms))
    if macro := next((one for one in macros if one.mix == mix), None):
        what, gain = f"{macro.num_benchmarks} benchmarks on average", _macro_gain(macro, comparisons)
        start = f"`{macro.label}` solves {percent(macro.accuracy)} of {what} {bounds(macro.interval)}"
        best = _most_solved(macro, [one for one in macros if one.student == macro.student])
    elif arm := next((arm for arm in arms if arm.mix == mix), None):
        gain = arm.gain
        start = f"`{arm.label}` solves {percent(arm.accuracy)} of `{arm.benchmark}` {bounds(arm.interval)}"
        best = _most_solved(arm, [one for one in arms if (one.student, one.benchmark) == (arm.student, arm.benchmark)])
    else:
        return f"No scores recorded for mix `{mix}`: run `distill run` until the evaluate stage is done."
    if gain is None:
        return f"{start}; the untouched student was not scored, so its gain is not known.{best}"
    return f"{start}, {gain_words(gain)}.{best}"


def _most_solved(said: ArmScore | MacroScore, arms: Sequence[ArmScore | MacroScore]) -> str:
    """A second sentence where another arm than the one that was said solves most."""
    most = max(arms, key=lambda one: one.accuracy)
    if most.accuracy <= said.accuracy:
        return ""
    return f" Most is solved by `{most.label}`: {percent(most.accuracy)} {bounds(most.interval)}."


def _macro_gain(macro: MacroScore, comparisons: Sequence[Comparison]) -> Comparison | None:
    mine = (one for one in comparisons if (one.purpose, one.first, one.benchmark) == ("gain", macro.label, MACRO))
    return next(mine, None)


def gain_words(gain: Comparison) -> str:
    """A gain over the untouched student, as the end of a sentence."""
    untouched = f"the untouched `{gain.second}`"
    if not gain.is_shown:
        return f"no difference from {untouched} is shown: {_signed(gain)}"
    side = "above" if gain.difference > 0 else "below"
    return f"{_magnitude(gain)} {side} {untouched}"


def _magnitude(one: Comparison) -> str:
    low, high = one.interval.low, one.interval.high
    ends = Interval(low, high) if one.difference > 0 else Interval(-high, -low)
    return f"{abs(one.difference) * 100:.0f} points {bounds(ends)}"


def _signed(one: Comparison) -> str:
    return f"{points(one.difference)} points {bounds(one.interval)}"


def findings(comparisons: Sequence[Comparison], changes: Sequence[GapChange]) -> list[str]:
    """How many arms gained, how the gaps of base students differ from those of their instruction-tuned versions, then
    how the mixes of each student compare on each benchmark."""
    gains = [one for one in comparisons if one.purpose == "gain" and one.benchmark != MACRO]
    rest = [one for one in comparisons if one.family == "mix"]
    keys = sorted(dict.fromkeys((one.student, one.benchmark) for one in rest), key=lambda key: key[1] != MACRO)
    lines = [_student_words([one for one in rest if (one.student, one.benchmark) == key]) for key in keys]
    left = len(lines) - MAX_FINDINGS
    more = [f"Further combinations of student and benchmark under Comparisons: {left}."] if left > 0 else []
    changed = [_gap_change_words(changes)] if changes else []
    return [
        *([_gain_count(gains)] if gains else []),
        *changed,
        *_stage_words(comparisons),
        *lines[:MAX_FINDINGS],
        *more,
    ]


def _stage_words(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """What later stages are shown to change, the largest differences first; one sentence, and none without stages."""
    stages = [one for one in comparisons if one.purpose == "stage"]
    if not stages:
        return
    found = sorted((one for one in stages if one.is_shown), key=lambda one: -abs(one.difference))
    parts = [f"`{one.first}` minus `{one.second}` on `{one.benchmark}` {_signed(one)}" for one in found[:MAX_IN_LINE]]
    more = f", and {len(found) - len(parts)} more under Comparisons" if len(found) > len(parts) else ""
    yield f"Stages: {', '.join(parts)}{more} (Holm-corrected)." if found else "Stages: no difference is shown."


def _gap_change_words(changes: Sequence[GapChange]) -> str:
    """Base against instruct on the mean of the benchmarks, or on the first where there is no mean."""
    benchmarks = [one.base.benchmark for one in changes]
    where = MACRO if MACRO in benchmarks else benchmarks[0]
    mine = [one for one in changes if one.base.benchmark == where]
    parts = [
        f"{gap_name(one)} of `{one.base.student}` {points(one.base.difference)}, of `{one.instruct.student}` "
        f"{points(one.instruct.difference)}, base minus instruct {points(one.difference)} points "
        f"{bounds(one.interval)}, {shown(one)}"
        for one in mine[:MAX_IN_LINE]
    ]
    more = f"; {len(mine) - len(parts)} more under Comparisons" if len(mine) > len(parts) else ""
    return f"Base against instruct on `{where}`: {'; '.join(parts)}{more}."


def _student_words(of_student: Sequence[Comparison]) -> str:
    """`smol` on `sums`: shown: mix minus long +13 points [4, 22]; not shown: long minus short +3 points [-1, 7].

    Of several blends only the recipe's first is named; the table has the others.
    """
    first_blend = [one.first for one in of_student if one.purpose == "blend"][:1]
    chosen = [one for one in of_student if one.purpose == "gap" or one.first in first_blend][:MAX_IN_LINE]
    parts = [
        f"{word}: {', '.join(_difference_words(one) for one in group)}"
        for word, group in (
            ("shown", [one for one in chosen if one.is_shown]),
            ("not shown", [one for one in chosen if not one.is_shown]),
        )
        if group
    ]
    more = f"; {len(of_student) - len(chosen)} more under Comparisons" if len(of_student) > len(chosen) else ""
    return f"`{of_student[0].student}` on `{of_student[0].benchmark}`: {'; '.join(parts)}{more}."


def _difference_words(one: Comparison) -> str:
    first, second = (label.removeprefix(f"{one.student}@") for label in (one.first, one.second))
    return f"{first} minus {second} {_signed(one)}{correction(one)}"


def _gain_count(gains: Sequence[Comparison]) -> str:
    above = sum(one.is_shown and one.difference > 0 for one in gains)
    below = sum(one.is_shown and one.difference < 0 for one in gains)
    counts = {"shown above": above, "shown below": below, "no difference shown": len(gains) - above - below}
    what = "trained arms (a student trained on one mix, on one benchmark) against the untouched student"
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    return f"{len(gains)} {what}: {', '.join(parts)} (Holm-corrected)."


def caveats(
    recipe: Recipe, models: Sequence[ModelScore], detectable: Sequence[Detectable], cells: Sequence[CellRow]
) -> list[str]:
    """What a reader must know before quoting a number: seeds, power, ungraded and cut completions, uneven budgets."""
    return [
        *_seed_caveats(recipe, models),
        *(_detectable_words(one) for one in detectable),
        *_error_caveats(models),
        *_ungraded_caveats(recipe, models),
        *_truncation_caveats(models),
        *_missing_caveats(recipe, models),
        *_step_caveats(recipe, cells),
    ]


def _detectable_words(one: Detectable) -> str:
    is_mean = one.benchmark == MACRO
    where = "The mean of all benchmarks" if is_mean else f"`{one.benchmark}` has {one.num_prompts} problems and"
    return (
        f"{where} detects a true difference of about {one.difference * 100:.0f} points with 80 % power (α = 0.05, "
        "before correction); a smaller one may well be missed."
    )


def _seed_caveats(recipe: Recipe, models: Sequence[ModelScore]) -> list[str]:
    seeds = len(recipe.train.seeds)
    if seeds == 1:
        return [
            "One training seed: intervals cover the sampling of problems for these trained weights; they do not cover "
            "another training seed."
        ]
    graded = [one for one in models if one.seed is not None and one.num_graded]
    runs = Counter((f"`{one.student}@{one.mix}`", one.benchmark) for one in graded)
    single = [f"{label} on `{benchmark}`" for (label, benchmark), count in runs.items() if count == 1]
    several = f"{seeds} training seeds: intervals cover other seeds as well, and are wide because the seeds are few."
    alone = (
        f"Of {seeds} training seeds only one has a graded answer of {_listed(single)}: intervals cover the sampling of "
        "problems for those trained weights; they do not cover another training seed."
    )
    return [
        *([several] if seeds < 5 and (not runs or len(single) < len(runs)) else []),
        *([alone] if single else []),
    ]


def _error_caveats(models: Sequence[ModelScore]) -> list[str]:
    errors = {one.model: one.errors for one in models if one.errors}
    if not errors:
        return []
    named = _listed([f"`{model}` {count}" for model, count in errors.items()])
    return [f"{sum(errors.values())} completions could not be graded and are left out of every accuracy ({named})."]


def _ungraded_caveats(recipe: Recipe, models: Sequence[ModelScore]) -> list[str]:
    lost = [f"`{one.model}` on `{one.benchmark}`" for one in models if one.errors and not one.num_graded]
    if not lost:
        return []
    words = f"No completion could be graded of {_listed(lost)}: intervals and tests do not count these runs"
    several = len(recipe.evaluate.benchmarks) > 1
    mean = "; an arm whose benchmarks lack different seeds has no mean over them" if several else ""
    return [f"{words}{mean}."]


def _truncation_caveats(models: Sequence[ModelScore]) -> list[str]:
    cut = [one for one in models if one.truncated > 0.05 * max(1, one.num_graded + one.errors)]
    if not cut:
        return []
    named = _listed(list(dict.fromkeys(f"`{one.model}`" for one in cut)))
    return [f"More than 5 % of the completions reached the token limit for {named}: the accuracy is a lower bound."]


def _missing_caveats(recipe: Recipe, models: Sequence[ModelScore]) -> list[str]:
    """Arms that were not scored at all by their label, single training seeds of others by the model's name."""
    scored = {(one.student, one.mix, one.benchmark) for one in models}
    runs = {(one.model, one.benchmark) for one in models}
    missing: dict[str, None] = {}
    for benchmark, one in itertools.product(recipe.evaluate.benchmarks, expected_models(recipe)):
        if (one.name, benchmark) in runs:
            continue
        label = f"`{one.student}@{one.mix}`" if one.mix else f"`{one.student}` untouched"
        name = f"`{one.name}`" if (one.student, one.mix, benchmark) in scored else label
        missing[f"{name} on `{benchmark}`"] = None
    return [f"Not scored: {_listed(list(missing))}."] if missing else []


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - MAX_IN_LINE} more"] if len(names) > MAX_IN_LINE else []
    return ", ".join([*names[:MAX_IN_LINE], *more])


def _step_caveats(recipe: Recipe, cells: Sequence[CellRow]) -> list[str]:
    """Only arms of as many prompts, without steps of their own, are to take equally many; with those before them."""
    budgets = arm_budgets(recipe.mixes, ())
    taken: dict[tuple[str, ArmBudget], set[int]] = {}
    for cell in cells:
        if cell.steps and cell.total_steps and cell.mix in budgets:  # merged students took none
            taken.setdefault((cell.student, budgets[cell.mix]), set()).add(cell.total_steps)
    uneven = dict.fromkeys(student for (student, _), steps in taken.items() if len(steps) > 1)
    named = ", ".join(f"`{student}`" for student in uneven)
    words = (
        f"The arms of {named} took different numbers of optimiser steps: the mix alone does not explain a difference."
    )
    return [words] if uneven else []
