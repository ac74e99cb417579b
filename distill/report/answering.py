"""Accuracy against tokens of students that are made to answer in other ways, and what that shows in words.

One way dominates another if it is more accurate and takes fewer tokens, both shown: the accuracy by its comparison
(corrected over the family), the tokens by their 95 % interval (not corrected: a change of tokens is what a way of
answering is for, and is large).
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from distill.config.recipe import Recipe
from distill.evaluate.arms import arm_name, bases_of
from distill.evaluate.statistics import Difference, random_difference
from distill.evaluate.variance import Shares, estimate
from distill.report.arms import Arm, arm_score
from distill.report.comparisons import MACRO
from distill.report.families import arm_families
from distill.report.formats import bounds, number, percent, points, signed
from distill.report.score_data import AnsweringCurve, AnsweringPoint, Comparison

BY_ITSELF = "by itself"

VERDICTS = {
    (1, -1): "dominates it: more accurate with fewer tokens",
    (1, 0): "more accurate, no difference in tokens shown",
    (1, 1): "more accurate with more tokens",
    (0, -1): "fewer tokens and no loss shown; a loss of more than {loss} points is excluded",
    (0, 0): "no difference shown",
    (0, 1): "more tokens and no gain shown; a gain of more than {gain} points is excluded",
    (-1, -1): "less accurate with fewer tokens",
    (-1, 0): "less accurate, no difference in tokens shown",
    (-1, 1): "is dominated by it: less accurate with more tokens",
}
"""(accuracy, tokens) -> what is shown against the same student by itself."""

TOKENS = {-1: "fewer tokens", 0: "no difference in tokens shown", 1: "more tokens"}
UNCONFIRMED = "{tokens}; {word} accurate by this interval alone, not shown beside the other comparisons"
"""What is said where an interval is on one side of 0, and the correction for all comparisons does not confirm it."""


def answering_curves(recipe: Recipe, arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> list[AnsweringCurve]:
    """One curve per student, arm and benchmark whose student is made to answer in another way.

    Args:
        recipe: its evaluation arms.
        arms: everything that was scored.
        comparisons: of these, with every evaluation arm against the student by itself.
    """
    by_key = {(arm.student, arm.mix, arm.benchmark): arm for arm in arms}
    changes = {(one.first, one.second, one.benchmark): one for one in comparisons if one.purpose == "answering"}
    bases, found = bases_of(recipe), []
    for of, plans in _plans(recipe).items():
        student, _, mix = of.partition("@")
        for benchmark in recipe.evaluate.benchmarks:
            points, plain, left_out = [], [], []
            for suffix, budget in plans.items():
                name = arm_name(mix, suffix)
                arm = by_key.get((student, name, benchmark))
                for base in filter(None, (by_key.get((student, one, benchmark)) for one in bases[name])):
                    change = changes.get((arm.label, base.label, benchmark)) if arm else None
                    if not arm or not change:
                        continue
                    left_out += [_silent_words(one) for one in (arm, base) if _silent(one)]
                    if _answered(arm, base):
                        points.append(_point(arm, suffix.removeprefix("+"), budget, base, change))
                        plain += [base] if base not in plain else []
                    else:
                        left_out.append(_unmeasured_words(arm, base))
            if points or left_out:
                points.sort(key=lambda point: (point.budget is None, point.budget or 0))
                itself = [_point(one, _told(one) or BY_ITSELF, None, one, None) for one in plain]
                said = tuple(dict.fromkeys(left_out))
                found.append(AnsweringCurve(student, mix, benchmark, (*points, *itself), said))
    return found


def answering_families(recipe: Recipe) -> dict[str, str]:
    """Arm -> its family; an evaluation arm belongs to that of the arm that it is compared with, empty for untouched."""
    families = arm_families(recipe)
    return families | {arm: families.get(bases[0], "") for arm, bases in bases_of(recipe).items()}


def verdict(accuracy: Comparison, tokens: Difference) -> str:
    """What is shown of a way of answering, against the same student by itself."""
    more_accurate = int(np.sign(accuracy.difference)) if accuracy.is_shown else 0
    more_tokens = 0 if tokens.interval.covers(0.0) else int(np.sign(tokens.estimate))
    if not accuracy.is_shown and not accuracy.interval.covers(0.0):
        word = "more" if accuracy.difference > 0 else "less"
        return UNCONFIRMED.format(tokens=TOKENS[more_tokens], word=word)
    limits = {"loss": max(0.0, -accuracy.interval.low), "gain": max(0.0, accuracy.interval.high)}
    return VERDICTS[more_accurate, more_tokens].format(**{name: f"{one * 100:.1f}" for name, one in limits.items()})


def answering_words(curve: AnsweringCurve) -> list[str]:
    """A sentence for each way of answering that is shown to be more or less accurate, and for what is left out."""
    shown = [one for one in curve.points if one.change and one.change.is_shown]
    return [*(_point_words(curve, one) for one in shown), *curve.left_out]


def equal_words(comparisons: Sequence[Comparison]) -> list[str]:
    """A sentence for every two arms of a student that are made to answer in the same ways: who is ahead where."""
    equal = [one for one in comparisons if one.purpose == "equal_answering"]
    is_mean = any(one.benchmark == MACRO for one in equal)
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in equal:
        if is_mean and one.benchmark != MACRO:
            continue
        (first, _, way), second = one.first.rpartition("+"), one.second.rpartition("+")[0]
        word = "" if one.is_shown else ", not shown"
        said = f"{way} {points(one.difference, 1)} {bounds(one.interval, 1)}{word}"
        groups.setdefault((first, second, one.benchmark), []).append(said)
    return [
        f"`{first}` minus `{second}` on `{benchmark}`, made to answer in the same way, points: {'; '.join(said)}."
        for (first, second, benchmark), said in groups.items()
    ]


def _plans(recipe: Recipe) -> Mapping[str, dict[str, int | None]]:
    """Who is made to answer -> suffix and budget of each way."""
    found: dict[str, dict[str, int | None]] = {}
    for arm in recipe.evaluate.arms:
        for of in arm.answering:
            found.setdefault(of, {}).update({plan.suffix: plan.budget for plan in arm.plans})
    return found


def _told(arm: Arm) -> str:
    """The mode that an arm is told, in words; empty where it is told none."""
    mode = arm.mix.partition(":")[2]
    return f"told to be {mode}" if mode else ""


def _point(arm: Arm, way: str, budget: int | None, base: Arm, change: Comparison | None) -> AnsweringPoint:
    score = arm_score(arm)
    tokens, more = _mean_tokens(arm), _more_tokens(arm, base)
    return AnsweringPoint(
        mix=arm.mix,
        way=way,
        budget=budget,
        accuracy=score.accuracy,
        interval=score.interval,
        mean_tokens=tokens.estimate,
        tokens_interval=tokens.interval,
        truncated_share=score.truncated_share,
        looping_share=score.looping_share,
        no_answer_share=score.no_answer_share,
        against=_told(base) if change else "",
        change=change,
        tokens_change=more.estimate,
        tokens_change_interval=more.interval,
        verdict=verdict(change, more) if change else "",
    )


def _mean_tokens(arm: Arm) -> Difference:
    (tokens,) = _answered(arm)
    return random_difference(estimate([tokens]), tokens.shape[1], most=float("inf"))


def _more_tokens(first: Arm, second: Arm) -> Difference:
    tokens = _answered(first, second)
    return random_difference(estimate(*([one] for one in tokens)), tokens[0].shape[1], most=float("inf"))


def _answered(*arms: Arm) -> list[Shares]:
    """[runs, prompts] of each arm: mean tokens of a prompt's completions, of the prompts that every run answered.

    Runs without any tokens are left out: their requests failed. Empty where fewer than two prompts are left: one says
    nothing about the tokens of others.
    """
    tokens = [[run for run in _run_tokens(arm) if not np.isnan(run).all()] for arm in arms]
    if not all(tokens):
        return []
    stacked = [np.vstack(runs) for runs in tokens]
    whole = np.logical_and.reduce([~np.isnan(one).any(axis=0) for one in stacked])
    return [one[:, whole] for one in stacked] if whole.sum() > 1 else []


def _silent(arm: Arm) -> list[str]:
    """The runs of an arm whose completions have no tokens."""
    return [run.model for run, tokens in zip(arm.runs, _run_tokens(arm), strict=True) if np.isnan(tokens).all()]


def _silent_words(arm: Arm) -> str:
    names = ", ".join(f"`{name}`" for name in _silent(arm))
    why = "requests failed, or their server counts none"
    return f"`{arm.label}` on `{arm.benchmark}`: no completion of {names} has tokens ({why}): they are left out."


def _unmeasured_words(arm: Arm, base: Arm) -> str:
    return (
        f"`{arm.label}` on `{arm.benchmark}`: tokens are not compared with `{base.label}`, since fewer than two "
        "problems have tokens in every run of both."
    )


def _run_tokens(arm: Arm) -> Iterator[Shares]:
    for run in arm.runs:
        written = run.tokens > 0  # a failed request has none
        at = np.searchsorted(arm.prompt_ids, run.prompt_ids[written])
        count = np.bincount(at, minlength=len(arm.prompt_ids))
        total = np.bincount(at, weights=run.tokens[written], minlength=len(arm.prompt_ids))
        yield np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def _point_words(curve: AnsweringCurve, one: AnsweringPoint) -> str:
    assert one.change is not None, "a student is not compared with itself"
    shares = {"truncated": one.truncated_share, "looping": one.looping_share, "no answer": one.no_answer_share}
    more, ends = one.tokens_change, one.tokens_change_interval
    itself = f"itself, {one.against}," if one.against else "itself"
    return (
        f"`{curve.label}`, {one.way}, on `{curve.benchmark}`: {percent(one.accuracy, 1)} {bounds(one.interval, 1)} "
        f"with {number(one.mean_tokens)} tokens; against {itself} {points(one.change.difference, 1)} points "
        f"{bounds(one.change.interval, 1)} and {signed(more)} tokens [{signed(ends.low)}, {signed(ends.high)}]: "
        f"{one.verdict} "
        f"({', '.join(f'{name} {percent(share, 1)}' for name, share in shares.items())})."
    )
