"""Accuracy against tokens of students that are made to answer in other ways: a curve for each sweep of budgets."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from distill.report.budget_figures import token_ticks
from distill.report.data import Report
from distill.report.plots import arm_colours, banded_line, draw, legend_above
from distill.report.score_data import AnsweringCurve, AnsweringPoint

MARKERS = "sD^vP*X"


def answering_plots(report: Report) -> dict[str, str]:
    """A plot for each student and benchmark."""
    found: dict[tuple[str, str], list[AnsweringCurve]] = {}
    for curve in filter(lambda one: one.points, report.answering):
        found.setdefault((curve.student, curve.benchmark), []).append(curve)
    return {
        f"answering {student} on {benchmark}": _answering_plot(report, curves)
        for (student, benchmark), curves in found.items()
    }


def _answering_plot(report: Report, curves: Sequence[AnsweringCurve]) -> str:
    """A line with its band through the budgets of each arm to the student by itself; a marker for any other way."""
    colours, first = arm_colours(report), curves[0]
    ways = list(dict.fromkeys(one.way for curve in curves for one in _others(curve)))

    def paint(axes: Axes) -> None:
        for curve in curves:
            colour = colours[curve.points[-1].mix]
            at = sorted(curve.sweep, key=lambda one: one.mean_tokens)
            if at:
                banded_line(axes, [one.mean_tokens for one in at], [_percent(one) for one in at], colour)
            itself = [one for one in curve.points if not one.change]
            for one in [*itself, *{other.way: other for other in _others(curve)}.values()]:
                marker = MARKERS[ways.index(one.way) % len(MARKERS)] if one.change else "o"
                _, low, high = _percent(one)
                axes.plot([one.mean_tokens] * 2, (low, high), color=colours[one.mix], linewidth=2, alpha=0.3)
                axes.plot([one.mean_tokens], [one.accuracy * 100], marker, color=colours[one.mix], markersize=8)
            for one in itself:
                axes.plot([], [], "-o" if at else "o", color=colours[one.mix], label=one.mix or "untouched")
        for number, way in enumerate(ways):
            axes.plot([], [], MARKERS[number % len(MARKERS)], color=colours[""], label=way)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(token_ticks([max(1.0, one.mean_tokens) for curve in curves for one in curve.points]))
        axes.set_xlabel("mean tokens of a completion")
        axes.set_ylabel("problems solved, %")
        legend_above(axes)

    return draw(3.4, f"Accuracy against tokens of {first.student} on {first.benchmark}, made to answer", paint)


def _others(curve: AnsweringCurve) -> list[AnsweringPoint]:
    """The ways that are no budget."""
    return [one for one in curve.points if one.change and one.budget is None]


def _percent(one: AnsweringPoint) -> tuple[float, float, float]:
    return one.accuracy * 100, one.interval.low * 100, one.interval.high * 100
