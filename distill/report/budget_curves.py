"""Accuracy against how much arms are trained on: arms that are equal but for `num_prompts`, or but for `num_steps`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from distill.config.arm_graph import arm_budgets
from distill.config.recipe import Recipe
from distill.report.comparisons import MACRO
from distill.report.data import CellRow, MixRow
from distill.report.families import arm_families
from distill.report.paper_metrics import scores_by_arm
from distill.report.score_data import ArmScore, BudgetCurve, BudgetPoint, MacroScore


def budget_curves(
    recipe: Recipe,
    arms: Sequence[ArmScore],
    macros: Sequence[MacroScore],
    mixes: Sequence[MixRow],
    cells: Sequence[CellRow],
) -> list[BudgetCurve]:
    """A curve per student, benchmark and family with at least two rows or two numbers of steps, points ascending.

    Args:
        recipe: which arms belong together.
        arms: their scores.
        macros: their means over all benchmarks.
        mixes: how many rows each mix has.
        cells: how many steps each took.
    """
    scores = scores_by_arm(arms, macros)
    tokens = mean_tokens(arms)
    amounts = {
        "rows": _of_arms(recipe, {row.mix: row.rows for row in mixes}),
        "steps": _of_arms(recipe, {cell.mix: cell.total_steps for cell in cells if cell.total_steps}),
    }
    found = []
    for by, family, label, members in _curves(recipe):
        for benchmark in dict.fromkeys(key[0] for key in scores):
            for student in recipe.students:
                points = [
                    _point(amounts[by][arm], scores[key], tokens.get(key))
                    for arm in members
                    if (key := (benchmark, student.name, arm)) in scores and arm in amounts[by]
                ]
                points.sort(key=lambda point: point.amount)
                if len({point.amount for point in points}) > 1:
                    found.append(BudgetCurve(student.name, benchmark, family, label, by, tuple(points)))
    return found


def mean_tokens(arms: Sequence[ArmScore]) -> dict[tuple[str, str, str], float]:
    """(benchmark, student, mix) -> mean tokens of a completion; for the mean of all benchmarks their mean."""
    found = {(arm.benchmark, arm.student, arm.mix): arm.mean_tokens for arm in arms if arm.mean_tokens}
    by_arm: dict[tuple[str, str], list[float]] = {}
    for (_, student, mix), tokens in found.items():
        by_arm.setdefault((student, mix), []).append(tokens)
    means = {(MACRO, student, mix): sum(tokens) / len(tokens) for (student, mix), tokens in by_arm.items()}
    return means | found


def _curves(recipe: Recipe) -> Iterator[tuple[str, str, str, list[str]]]:
    """(rows or steps, family, label, arms) of every group of arms that are equal but for one of the two."""
    budgets, families = arm_budgets(recipe.mixes, recipe.merges), arm_families(recipe)
    for by, fixed, common in (("rows", "num_steps", "common steps"), ("steps", "num_prompts", "all prompts")):
        groups: dict[tuple[str, int | None], list[str]] = {}
        for arm, family in families.items():
            groups.setdefault((family, getattr(budgets[arm], fixed)), []).append(arm)
        several = {key: arms for key, arms in groups.items() if len({budgets[arm] for arm in arms}) > 1}
        counts = Counter(family for family, _ in several)
        for (family, value), arms in several.items():
            held = common if value is None else f"{value} {common.rpartition(' ')[2]}"
            yield by, family, f"{family}, {held}" if counts[family] > 1 else family, arms


def _point(amount: int, score: ArmScore | MacroScore, tokens: float | None) -> BudgetPoint:
    return BudgetPoint(score.mix, amount, score.accuracy, score.interval, tokens)


def _of_arms(recipe: Recipe, amounts: Mapping[str, int]) -> dict[str, int]:
    """Arm, by the names that its students are scored under -> amount of its mix; of a merge its largest parent's."""
    merged = {one.name: [amounts[parent] for parent in one.of if parent in amounts] for one in recipe.merges}
    every = {**amounts, **{name: max(found) for name, found in merged.items() if found}}
    return {arm: every[one.name] for one in (*recipe.mixes, *recipe.merges) for arm in one.arms if one.name in every}
