"""Plots about how much arms are trained on: budget curves, and gaps with unequal and with matched steps."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from distill.report.comparisons import MACRO
from distill.report.data import Report
from distill.report.plots import (
    INK,
    SERIES,
    arm_colours,
    banded_line,
    draw,
    interval_mark,
    legend_above,
    row_labels,
)
from distill.report.score_data import BudgetCurve, BudgetPoint, Comparison

LINES = ("-", "--", ":", "-.")
AMOUNTS = {"rows": "rows of the mix", "steps": "optimiser steps"}


def budget_plots(report: Report) -> dict[str, str]:
    """Two plots for each student and benchmark with curves: accuracy, and accuracy for the tokens that it takes."""
    found: dict[tuple[str, str, str], list[BudgetCurve]] = {}
    for curve in report.budget_curves:
        found.setdefault((curve.by, curve.benchmark, curve.student), []).append(curve)
    plots = {}
    for (by, benchmark, student), curves in found.items():
        where = f"of {student} on {benchmark} by {AMOUNTS[by]}"
        plots[f"budget accuracy {where}"] = _curves_plot(report, curves, per_tokens=False)
        if all(point.mean_tokens for curve in curves for point in curve.points):
            plots[f"budget accuracy per token {where}"] = _curves_plot(report, curves, per_tokens=True)
    return plots


def _curves_plot(report: Report, curves: Sequence[BudgetCurve], *, per_tokens: bool) -> str:
    """A line with its band for each curve; further ones of one colour, which a family or many arms have, are dashed."""
    colours, first = arm_colours(report), curves[0]
    what = "problems solved per 1,000 tokens" if per_tokens else "problems solved, %"

    def paint(axes: Axes) -> None:
        used: Counter[str] = Counter()
        for curve in curves:
            at = [float(point.amount) for point in curve.points]
            values = [_values(point, per_tokens=per_tokens) for point in curve.points]
            colour = colours[curve.points[0].mix]
            banded_line(axes, at, values, colour, label=curve.label, linestyle=LINES[used[colour] % len(LINES)])
            used[colour] += 1
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_major_locator(FixedLocator(_ticks([point.amount for one in curves for point in one.points])))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(AMOUNTS[first.by])
        axes.set_ylabel(what)
        legend_above(axes)

    return draw(3.0, f"{what} of {first.student} on {first.benchmark} by {AMOUNTS[first.by]}", paint)


def _values(point: BudgetPoint, *, per_tokens: bool) -> tuple[float, float, float]:
    scale = 1000 / (point.mean_tokens or 1.0) if per_tokens else 100
    return point.accuracy * scale, point.interval.low * scale, point.interval.high * scale


def _ticks(amounts: Sequence[int]) -> list[float]:
    """The amounts themselves where they are few."""
    distinct = sorted({float(amount) for amount in amounts})
    return distinct if len(distinct) <= 6 else token_ticks(distinct)


def token_ticks(tokens: Sequence[float]) -> list[float]:
    """Two to five round numbers that span the tokens on a logarithmic axis."""
    even = np.geomspace(min(tokens), max(tokens) * 1.01, 4)
    return sorted({float(f"{value:.1e}") for value in even})


def unequal_plot(report: Report) -> str:
    """A blend minus a pure arm, on the mean of all benchmarks or the only one: with unequal and with matched steps."""
    changes = [one for one in report.steps_changes if one.benchmark == MACRO] or list(report.steps_changes)
    kinds: Mapping[str, tuple[str, float]] = {"unequal steps": (SERIES[1], -0.16), "matched steps": (SERIES[0], 0.16)}

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for y, one in enumerate(changes):
            for found, (colour, shift) in zip((one.unequal, one.matched), kinds.values(), strict=True):
                ends = (found.interval.low * 100, found.interval.high * 100)
                interval_mark(axes, found.difference * 100, ends, y + shift, colour)
        for name, (colour, _) in kinds.items():
            axes.plot([], [], "o", color=colour, label=name)
        labels = [f"{_pair(one.unequal)}\n{one.student}" for one in changes]
        row_labels(axes, [float(y) for y in range(len(changes))], labels)
        axes.set_xlabel("pure is better  ←   points   →  blend is better")
        legend_above(axes)

    return draw(1.2 + 0.5 * len(changes), "Gaps with unequal and with matched optimiser steps", paint)


def _pair(one: Comparison) -> str:
    first, second = (label.removeprefix(f"{one.student}@") for label in (one.first, one.second))
    return f"{first} − {second}"
