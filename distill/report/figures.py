"""The list of a report's plots, and those about mixes: weight sweep, accuracy against tokens, token shift."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from distill.report.answering_figures import answering_plots
from distill.report.budget_figures import budget_plots, token_ticks, unequal_plot
from distill.report.data import FitRow, Report
from distill.report.plots import (
    SERIES,
    accuracy_plot,
    arm_colours,
    arm_fills,
    banded_line,
    draw,
    gap_plot,
    legend_above,
    length_plot,
    loss_plot,
    one_of_each_family,
    pool_colours,
    timeline_plot,
)
from distill.report.score_data import ArmScore, Sweep

MARKERS = "osD^vP*X"
CLASSES = {"shifted": "rank above 3", "marginal": "rank 2 or 3"}


def all_plots(report: Report) -> Mapping[str, str]:
    """Every plot that the run has numbers for, by name."""
    scored = list(dict.fromkeys(arm.benchmark for arm in report.arms))
    trained = dict.fromkeys(cell.student for cell in report.cells if cell.curve.steps)
    plots = {f"accuracy {benchmark}": accuracy_plot(report, benchmark) for benchmark in scored}
    plots |= {"gap": gap_plot(report, "gap", "long", "short")} if report.gaps() else {}
    plots |= {"large gap": gap_plot(report, "large_gap", "large", "small")} if report.gaps("large_gap") else {}
    plots |= {f"sweep {name}": sweep_plot(curves) for name, curves in _by_pools(report).items()}
    plots |= budget_plots(report)
    plots |= answering_plots(report)
    plots |= {"unequal steps": unequal_plot(report)} if report.steps_changes else {}
    plots |= {f"pareto {name}": pareto_plot(report, name) for name in scored if _has_lengths(report, name)}
    plots |= {"lengths": length_plot(report)} if any(sum(row.lengths.counts) for row in report.pools) else {}
    plots |= {"shift": shift_plot(report)} if report.fits else {}
    plots |= {"timeline": timeline_plot(report)} if report.attempts() else {}
    return plots | {f"loss {student}": loss_plot(report, student) for student in trained}


def _by_pools(report: Report) -> dict[str, list[Sweep]]:
    """Sweeps of one benchmark and two pools, over mixes that are trained on equally much, go into one plot."""
    found: dict[str, list[Sweep]] = {}
    for sweep in report.sweeps:
        budget = f" ({sweep.budget})" if sweep.budget else ""
        name = f"{sweep.benchmark} by the weight of {sweep.pool} against {sweep.other}{budget}"
        found.setdefault(name, []).append(sweep)
    return found


def sweep_plot(curves: Sequence[Sweep]) -> str:
    """Accuracy against the weight of one pool; a line with its band of intervals per student."""
    first = curves[0]

    def paint(axes: Axes) -> None:
        for number, curve in enumerate(curves):
            at = [point.share * 100 for point in curve.points]
            values = [
                (point.accuracy * 100, point.interval.low * 100, point.interval.high * 100) for point in curve.points
            ]
            banded_line(axes, at, values, SERIES[number % len(SERIES)], label=curve.student)
        axes.set_xlabel(f"weight of {first.pool}, % (the rest is {first.other})")
        axes.set_ylabel("problems solved, %")
        legend_above(axes)

    return draw(3.0, f"Accuracy on {first.benchmark} by weight of {first.pool}", paint)


def _has_lengths(report: Report, benchmark: str) -> bool:
    return any(arm.mean_tokens for arm in report.arms if arm.benchmark == benchmark)


def pareto_plot(report: Report, benchmark: str) -> str:
    """Accuracy against the tokens spent per problem; a marker per student, a colour per mix, the front as a line."""
    arms = [arm for arm in report.answering_alone(benchmark) if arm.mean_tokens]
    colours, fills = arm_colours(report), arm_fills(report)

    def paint(axes: Axes) -> None:
        front = pareto_front(arms)
        axes.plot(
            [arm.mean_tokens for arm in front], [arm.accuracy * 100 for arm in front], color=colours[""], zorder=1
        )
        for arm in arms:
            marker = MARKERS[report.students.index(arm.student) % len(MARKERS)]
            ends = (arm.interval.low * 100, arm.interval.high * 100)
            axes.plot([arm.mean_tokens] * 2, ends, color=colours[arm.mix], linewidth=2, alpha=0.3)
            style = {"color": colours[arm.mix], "fillstyle": fills[arm.mix], "markersize": 7}
            axes.plot([arm.mean_tokens], [arm.accuracy * 100], marker, **style)
        for mix, family in one_of_each_family(report, [arm.mix for arm in arms]).items():
            axes.plot([], [], "s", color=colours[mix], fillstyle=fills[mix], label=family or "untouched")
        for number, student in enumerate(report.students if len(report.students) > 1 else ()):
            axes.plot([], [], MARKERS[number % len(MARKERS)], color=colours[""], label=student)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(token_ticks([float(arm.mean_tokens or 1) for arm in arms]))
        axes.set_xlabel("mean tokens of a completion")
        axes.set_ylabel("problems solved, %")
        legend_above(axes)

    return draw(3.4, f"Accuracy against tokens on {benchmark}", paint)


def pareto_front(arms: Sequence[ArmScore]) -> list[ArmScore]:
    """The Pareto front: arms that no other arm equals or beats with as many or fewer tokens, fewest tokens first."""
    front: list[ArmScore] = []
    for arm in sorted(arms, key=lambda one: (one.mean_tokens or 0.0, -one.accuracy)):
        if not front or arm.accuracy > front[-1].accuracy:
            front.append(arm)
    return front


def shift_plot(report: Report) -> str:
    """Share of each pool's tokens that are not the untouched student's first choice."""
    fits, colours = report.fits, pool_colours(report)
    rows = [float(number) for number in range(len(fits))]

    def paint(axes: Axes) -> None:
        left = np.zeros(len(fits))
        for name, alpha in (("shifted", 0.95), ("marginal", 0.4)):
            widths = np.array([row.scores[name].median * 100 for row in fits])
            axes.barh(rows, widths, left=left, height=0.6, color=[colours[row.pool] for row in fits], alpha=alpha)
            left += widths
        axes.set_yticks(rows, [_fit_label(row) for row in fits])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"tokens, % (dark: {CLASSES['shifted']}, light: {CLASSES['marginal']})")

    return draw(1.0 + 0.42 * len(fits), "Shift of the pools' tokens under the untouched students", paint)


def _fit_label(row: FitRow) -> str:
    return f"{row.pool}\n{row.student}"
