"""The answer to a run's primary question (`[question]`): which arms are better than all of those that they must beat.

An arm is better than several others if it is better than each, so its test is an intersection-union test (Berger,
Technometrics 24:295, 1982): its p is the largest of its comparisons' two-sided p-values where all differences are
positive, else 1. No correction is needed for how many arms one must beat; Holm's is made over all candidates and
students. Estimates, intervals and p-values are those of `distill.report.comparisons`. With `margin_points` the same is
tested of the differences plus the margin: that an arm is less than so much below each of the others (non-inferiority).
"""

from collections.abc import Sequence

from scipy import special

from distill.config.question import Candidate
from distill.config.recipe import Recipe
from distill.evaluate.power import ALPHA, NORMAL_DEGREES, POWER, detectable_over_all
from distill.evaluate.statistics import holm
from distill.report.comparisons import MACRO, both_ways, least_error, reversed_comparison
from distill.report.formats import bounds, p_value, points
from distill.report.score_data import CandidateResult, Comparison, QuestionResult


def answer_question(
    recipe: Recipe, asked: Sequence[Candidate], comparisons: Sequence[Comparison]
) -> QuestionResult | None:
    """The question in words, its answer, and every candidate; None where the recipe asks nothing.

    Args:
        recipe: names benchmarks and students.
        asked: the arms of its question, as it was written.
        comparisons: all that were made.
    """
    if recipe.question is None:
        return None
    benchmarks = recipe.evaluate.benchmarks
    benchmark = recipe.question.benchmark or (MACRO if len(benchmarks) > 1 else benchmarks[0])
    students = [student.name for student in recipe.students]
    expected = [
        (student, one) for student in students for one in asked if recipe.takes_all(student, (one.arm, *one.over))
    ]
    made = both_ways(comparisons)
    found = [
        (student, one, tuple(made[key] for key in _keys(student, one, benchmark)))
        for student, one in expected
        if all(key in made for key in _keys(student, one, benchmark))
    ]
    margin_points = recipe.question.margin_points
    results = candidate_results(found, margin_points / 100)
    missing = [f"{student}@{one.arm}" for student, one in expected if (student, one) not in [one[:2] for one in found]]
    students = list(dict.fromkeys(student for student, _ in expected))
    return QuestionResult(
        question=_question_words(asked, students, benchmark, margin_points),
        answer=_answer_words(results, missing, are_several=len(students) > 1, margin_points=margin_points),
        benchmark=benchmark,
        candidates=tuple(results),
        margin_points=margin_points,
    )


def _keys(student: str, one: Candidate, benchmark: str) -> list[tuple[str, str, str]]:
    return [(f"{student}@{one.arm}", f"{student}@{other}", benchmark) for other in one.over]


def candidate_results(
    found: Sequence[tuple[str, Candidate, tuple[Comparison, ...]]], margin: float = 0.0
) -> list[CandidateResult]:
    """Every candidate's test, corrected over all of them; being worse than all is tested in the same way.

    Args:
        found: student, candidate, and the candidate minus each of its `over`.
        margin: an arm may be below the others by less than so much; a share, as the differences.
    """
    better = [
        intersection_union_p([(one.difference + margin, _p_above(one, margin)) for one in made]) for _, _, made in found
    ]
    worse = [intersection_union_p([(-one.difference, one.p_value) for one in made]) for _, _, made in found]
    return [
        CandidateResult(
            student=student,
            arm=one.arm,
            comparisons=made,
            p_value=p,
            p_adjusted=p_adjusted,
            verdict=_verdict(made, p_adjusted, p_worse, margin),
            detectable=detectable_over_all([least_error(each) for each in made], len(found)) - margin,
        )
        for (student, one, made), p, p_adjusted, p_worse in zip(found, better, holm(better), holm(worse), strict=True)
    ]


def intersection_union_p(comparisons: Sequence[tuple[float, float]]) -> float:
    """p of being better than every other arm, from (difference, two-sided p) of each comparison."""
    return max(p for _, p in comparisons) if all(difference > 0 for difference, _ in comparisons) else 1.0


def _p_above(one: Comparison, margin: float) -> float:
    """Two-sided p of the difference being minus the margin: the comparison's own where there is no margin."""
    if margin == 0:
        return one.p_value
    error, above = least_error(one), one.difference + margin
    degrees = min(error.degrees, NORMAL_DEGREES)
    return float(2 * special.stdtr(degrees, -abs(above) / error.error)) if error.error else float(above == 0)


def _verdict(made: Sequence[Comparison], p_better: float, p_worse: float, margin: float) -> str:
    if p_better < ALPHA and not any(one.interval.covers(-margin) for one in made):
        return "held" if margin else "better"
    return "worse" if p_worse < ALPHA and not any(one.interval.covers(0.0) for one in made) else "not shown"


# Words


def _question_words(asked: Sequence[Candidate], students: Sequence[str], benchmark: str, margin: float) -> str:
    """`Does any of A, B beat both C and D on the mean of all benchmarks?`, or with a margin in points `Is any of A, B
    less than 5 points below both C and D ...?`"""
    by_over: dict[tuple[str, ...], list[str]] = {}
    for one in asked:
        by_over.setdefault(one.over, []).append(one.arm)
    verb = f"less than {margin:g} points below" if margin else "beat"
    parts = [f"{_any_of(arms)} {verb} {_all_of(over)}" for over, arms in by_over.items()]
    where = "the mean of all benchmarks" if benchmark == MACRO else f"`{benchmark}`"
    whom = f", for any of {_listed(students)}" if len(students) > 1 else ""
    return f"{'Is' if margin else 'Does'} {', or '.join(parts)} on {where}{whom}?"


def _any_of(arms: Sequence[str]) -> str:
    return f"`{arms[0]}`" if len(arms) == 1 else f"any of {_listed(arms)}"


def _all_of(arms: Sequence[str]) -> str:
    *others, last = (f"`{arm}`" for arm in arms)
    if not others:
        return last
    return f"{'both' if len(others) == 1 else 'each of'} {', '.join(others)} and {last}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _answer_words(
    results: Sequence[CandidateResult], missing: Sequence[str], *, are_several: bool, margin_points: float
) -> str:
    """Yes with every arm that is shown to be better, no where each is shown to be worse, else the best candidate and
    what would have been detected."""
    left = [f"Not compared yet: {_listed(missing)}."] if missing else []
    if not results:
        return " ".join(["Not answered: no candidate was scored beside all arms that it must beat.", *left])
    better = [one for one in results if one.verdict in ("better", "held")]
    worse = [one for one in results if one.verdict == "worse"]
    if len(worse) == len(results) and not missing and not margin_points:
        below = "; ".join(_shown_words(one, are_several) for one in worse)
        return f"No, the opposite is shown: {below}."
    words = [_held_words(one, are_several) if margin_points else _shown_words(one, are_several) for one in better]
    start = f"Yes: {'; '.join(words)}." if better else _not_shown_words(results, are_several, margin_points)
    warning = [f"Shown to be worse than all: {'; '.join(_shown_words(one, are_several) for one in worse)}."]
    return " ".join([start, *(warning if worse else []), *left])


def _name(one: CandidateResult, are_several: bool) -> str:
    return f"`{one.student}@{one.arm}`" if are_several else f"`{one.arm}`"


def _shown_words(one: CandidateResult, are_several: bool) -> str:
    """``x` beats `short` by 6.0 points [2.0, 10.0] and `long` by 7.1 points [3.0, 11.2] (Holm-corrected p = 0.012)`."""
    is_better = one.verdict == "better"
    made = one.comparisons if is_better else [reversed_comparison(each) for each in one.comparisons]
    others = [each.second if is_better else each.first for each in made]
    parts = [
        f"`{other.removeprefix(f'{one.student}@')}` by {points(each.difference, 1).removeprefix('+')} points "
        f"{bounds(each.interval, 1)}"
        for other, each in zip(others, made, strict=True)
    ]
    verb, p = ("beats", f" (Holm-corrected {_p_words(one.p_adjusted)})") if is_better else ("is below", "")
    return f"{_name(one, are_several)} {verb} {' and '.join(parts)}{p}"


def _held_words(one: CandidateResult, are_several: bool) -> str:
    """``x`: −0.4 points [−2.9, 2.1] against `long` (Holm-corrected p = 0.004)`."""
    return f"{_name(one, are_several)}: {_differences(one)} (Holm-corrected {_p_words(one.p_adjusted)})"


def _differences(one: CandidateResult) -> str:
    """`+1.0 points [−3.0, 5.0] against `short` and ...`."""
    parts = [
        f"{points(each.difference, 1)} points {bounds(each.interval, 1)} against "
        f"`{each.second.removeprefix(f'{one.student}@')}`"
        for each in one.comparisons
    ]
    return " and ".join(parts)


def _p_words(value: float) -> str:
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _not_shown_words(results: Sequence[CandidateResult], are_several: bool, margin_points: float) -> str:
    best = max(results, key=lambda one: min(each.difference for each in one.comparisons))
    least = points(best.detectable, 0) if margin_points else f"{best.detectable * 100:.0f}"
    return (
        f"Not shown: the best candidate is {_name(best, are_several)}, {_differences(best)} (Holm-corrected "
        f"{_p_words(best.p_adjusted)}); a true difference of about {least} points would have been "
        f"{'enough' if margin_points else 'detected'} with {POWER * 100:.0f} % power."
    )
