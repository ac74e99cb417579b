"""The report's plots: matplotlib SVG whose colours are CSS variables, so that one file is right in light and dark.

Text stays text (in the page's font), the background is transparent. matplotlib draws with placeholder colours that are
used for nothing else; in the finished SVG they are replaced by the CSS variables.
"""

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from distill.report.data import CellRow, Curve, Report
from distill.report.formats import size
from distill.report.score_data import ArmScore, Comparison

INK, GRID, UNTOUCHED = "#010203", "#010204", "#010205"
SERIES = tuple(f"#01030{number}" for number in range(8))
CSS = {INK: "currentColor", GRID: "var(--grid)", UNTOUCHED: "var(--series-untouched)"}
CSS |= {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)}
WIDTH = 5.4
"""Inches. A plot is shown at 72 px per inch, two side by side on a wide screen."""
LEGEND_WIDTH, LEGEND_GAP, LEGEND_LINE = 64, 5, 0.21
"""Characters beside each other in a legend, between two of its columns, and inches of a line."""
FILLS = ("full", "none", "left")
"""How markers of a colour are filled, one arm after the other, where there are more arms than colours."""

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "distill",
    # Names come from recipes and data: a `$` in one must not be read as mathematics.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 10,
}


def arm_colours(report: Report) -> dict[str, str]:
    """One colour per mix and mode; mixes that differ only in how much they are trained on share it, as do the ways in
    which an arm is made to answer."""
    colours = {
        arm: UNTOUCHED if number is None else SERIES[number % len(SERIES)]
        for arm, number in _family_numbers(report).items()
    }
    of_mixes = {arm.partition(":")[0]: colour for arm, colour in reversed(colours.items())}
    return {"": UNTOUCHED, **of_mixes, **colours}


def arm_fills(report: Report) -> dict[str, str]:
    """How the marker of each mix and mode is filled, so that arms of one colour can be told apart."""
    fills = {arm: FILLS[(number or 0) // len(SERIES) % len(FILLS)] for arm, number in _family_numbers(report).items()}
    return {"": FILLS[0], **fills}


def _family_numbers(report: Report) -> dict[str, int | None]:
    """Mix and mode -> which family it is of, in the order of the report; None: of the untouched student."""
    family = {arm: report.families.get(arm, arm) for arm in report.mixes}
    numbers = {name: number for number, name in enumerate(dict.fromkeys(filter(None, family.values())))}
    return {arm: numbers.get(name) for arm, name in family.items()}


def one_of_each_family(report: Report, arms: Sequence[str]) -> dict[str, str]:
    """Arm -> family, for the first arm of every family: the lines of a legend."""
    family = {report.families.get(arm, arm): arm for arm in reversed(arms)}
    return {arm: name for arm in dict.fromkeys(arms) for name, first in family.items() if first == arm}


def pool_colours(report: Report) -> dict[str, str]:
    """One colour per pool: that of the mix drawn from it alone, where there is one."""
    by_mix = arm_colours(report)
    pure = {row.shares[0].pool: by_mix[row.mix] for row in report.mix_rows if len(row.shares) == 1}
    free = [colour for colour in SERIES if colour not in by_mix.values()] or list(SERIES)
    return {row.pool: pure.get(row.pool, free[number % len(free)]) for number, row in enumerate(report.pools)}


def draw(height: float, title: str, paint: Callable[[Axes], None]) -> str:
    """One pair of axes as inline SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure.add_subplot())
        return to_svg(figure, title)


def to_svg(figure: Figure, title: str) -> str:
    """Inline SVG that fills its box, named for screen readers, in CSS colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
    for placeholder, css in CSS.items():
        text = text.replace(placeholder, css)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)


def accuracy_plot(report: Report, benchmark: str) -> str:
    """Accuracy with interval of every arm that answers by itself, grouped by student."""
    arms = report.answering_alone(benchmark)
    colours = arm_colours(report)
    rows = _grouped_rows([arm.student for arm in arms])

    def paint(axes: Axes) -> None:
        for arm, y in zip(arms, rows, strict=True):
            interval_mark(
                axes, arm.accuracy * 100, (arm.interval.low * 100, arm.interval.high * 100), y, colours[arm.mix]
            )
        row_labels(axes, rows, [arm.mix or "untouched" for arm in arms])
        for student in dict.fromkeys(arm.student for arm in arms):
            top = min(y for arm, y in zip(arms, rows, strict=True) if arm.student == student)
            axes.text(0.0, top - 0.62, student, transform=axes.get_yaxis_transform(), weight="bold", va="center")
        axes.set_xlim(*_percent_limits(arms))
        axes.set_xlabel("problems solved, %  (95 % interval)")

    return draw(
        0.9 + 0.3 * (len(arms) + 1.2 * len({arm.student for arm in arms})), "Accuracy by student and mix", paint
    )


def _percent_limits(arms: Sequence[ArmScore]) -> tuple[float, float]:
    high = max(arm.interval.high for arm in arms) * 100
    return 0.0, min(100.0, math.ceil((high + 3) / 10) * 10)


def _grouped_rows(groups: Sequence[str]) -> list[float]:
    rows, y = [], 0.0
    for number, group in enumerate(groups):
        y += 1.0 if number and groups[number - 1] == group else 2.0
        rows.append(y)
    return rows


def interval_mark(axes: Axes, value: float, ends: tuple[float, float], y: float, colour: str) -> None:
    """A value in row `y`, with the ends of its interval."""
    axes.plot(ends, (y, y), color=colour, linewidth=3, alpha=0.45, solid_capstyle="round")
    axes.plot([value], [y], "o", color=colour, markersize=7)


def row_labels(axes: Axes, rows: Sequence[float], labels: Sequence[str]) -> None:
    """Names of the rows of a plot, the first at the top."""
    axes.set_yticks(rows, labels)
    axes.set_ylim(max(rows) + 0.7, min(rows) - 1.1)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def gap_plot(report: Report, purpose: str, first: str, second: str) -> str:
    """First minus second per student (and benchmark), smallest student first."""
    gaps = sorted(report.gaps(purpose), key=lambda one: (report.student_sizes[one.student] or 0, one.student))
    labels = [_gap_label(report, one, gaps) for one in gaps]
    rows = [float(number) for number in range(len(gaps))]

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for one, y in zip(gaps, rows, strict=True):
            interval_mark(axes, one.difference * 100, (one.interval.low * 100, one.interval.high * 100), y, SERIES[0])
        row_labels(axes, rows, labels)
        reach = max(5.0, *(100 * max(abs(one.interval.low), abs(one.interval.high)) for one in gaps)) * 1.1
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(f"{second} is better  ←   points   →  {first} is better")

    return draw(1.0 + 0.42 * len(gaps), f"Gap {first} minus {second} by student", paint)


def _gap_label(report: Report, one: Comparison, gaps: Sequence[Comparison]) -> str:
    """Student and benchmark; the arms where the student has several gaps on it."""
    weight = size(report.student_sizes[one.student])
    name = f"{one.student} ({weight})" if weight and weight.lower() not in one.student.lower() else one.student
    if sum((other.student, other.benchmark) == (one.student, one.benchmark) for other in gaps) > 1:
        name = " − ".join(label.removeprefix(f"{one.student}@") for label in (one.first, one.second))
    return f"{name}\n{one.benchmark}" if len(report.benchmarks) > 1 else name


def banded_line(
    axes: Axes, at: Sequence[float], values: Sequence[tuple[float, float, float]], colour: str, **line: str
) -> None:
    """A line through (value, low, high) with the band of its intervals."""
    middle, low, high = zip(*values, strict=True)
    axes.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(at, middle, **{"marker": "o", "linestyle": "-", **line}, color=colour)


def length_plot(report: Report) -> str:
    """Distribution of the lengths of correct traces, per pool."""
    colours = pool_colours(report)
    pools = [row for row in report.pools if sum(row.lengths.counts)]

    def paint(axes: Axes) -> None:
        for row in pools:
            heights = np.array(row.lengths.counts) / sum(row.lengths.counts) * 100
            axes.stairs(heights, row.lengths.edges, fill=True, color=colours[row.pool], alpha=0.35)
            label = f"{row.pool} ({row.style}), median {row.median_tokens:,.0f}"
            axes.stairs(heights, row.lengths.edges, color=colours[row.pool], linewidth=1.6, label=label)
        _length_axis(axes, pools[0].lengths.edges)
        axes.set_ylabel("% of the pool's traces")
        legend_above(axes)

    return draw(3.0, "Length of correct traces by pool", paint)


def _length_axis(axes: Axes, edges: Sequence[float]) -> None:
    axes.set_xlabel("tokens of a correct trace")
    if edges[-1] / max(edges[0], 1) > 12:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def loss_plot(report: Report, student: str) -> str:
    """Training loss of one student's cells; a colour per mix, a line per seed."""
    colours = arm_colours(report)
    cells = [cell for cell in report.cells if cell.student == student and cell.curve.steps]
    families = one_of_each_family(report, [cell.mix for cell in cells])

    def paint(axes: Axes) -> None:
        for cell in cells:
            axes.plot(cell.curve.steps, cell.curve.losses, color=colours[cell.mix], linewidth=1, alpha=0.3)
            smooth = smoothed(cell.curve)
            axes.plot(
                smooth.steps, smooth.losses, color=colours[cell.mix], linewidth=1.8, label=_once(cell, cells, families)
            )
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss per supervised token")
        axes.set_ylim(bottom=0)
        legend_above(axes)

    return draw(3.0, f"Training loss of {student}", paint)


def legend_above(axes: Axes) -> None:
    """A legend above the axes, where it cannot hide a curve; the figure grows with its lines."""
    labels = axes.get_legend_handles_labels()[1]
    ncols = max(1, min(3, LEGEND_WIDTH // (max(map(len, labels), default=0) + LEGEND_GAP)))
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=ncols, borderaxespad=0.2, handlelength=1.2, columnspacing=1.4
    )
    figure = axes.get_figure(root=True)
    if figure and (more := -(-len(labels) // ncols) - 3) > 0:
        figure.set_figheight(figure.get_figheight() + LEGEND_LINE * more)


def _once(cell: CellRow, cells: Sequence[CellRow], families: Mapping[str, str]) -> str:
    first = next(one for one in cells if one.mix == cell.mix)
    return families.get(cell.mix, "_nolegend_") if cell is first else "_nolegend_"


def timeline_plot(report: Report) -> str:
    """When each cell was trained: a bar per attempt in the colour of its mix, a cross where it was lost or failed."""
    colours = arm_colours(report)
    timeline = report.attempts()
    cells = list(dict.fromkeys(cell.cell for cell, _ in timeline))
    longest = max(1.0, *(attempt.ended_at for _, attempt in timeline))
    unit, scale = ("min", 60.0) if longest > 300 else ("s", 1.0)

    def paint(axes: Axes) -> None:
        for cell, attempt in timeline:
            y = cells.index(cell.cell)
            start, end = attempt.started_at / scale, attempt.ended_at / scale
            axes.barh(y, end - start, left=start, height=0.55, color=colours[cell.mix], alpha=0.75, linewidth=0)
            if attempt.outcome in ("lost", "failed"):
                axes.plot([end], [y], "x", color=INK, markersize=8, markeredgewidth=1.8)
            label = f"{attempt.num_workers} workers" if attempt.num_workers > 1 else ""
            label += f"{', ' if label else ''}from step {attempt.first_step}" if attempt.first_step else ""
            axes.annotate(label, (start, y), (3, 0), textcoords="offset points", va="center", fontsize=8)
        row_labels(axes, [float(y) for y in range(len(cells))], cells)
        axes.set_xlim(0, longest / scale * 1.03)
        axes.set_xlabel(f"{unit} since the first worker started")

    return draw(0.9 + 0.3 * len(cells), "When each cell was trained", paint)


def smoothed(curve: Curve) -> Curve:
    """Centred running mean over a tenth of the steps, over fewer at both ends."""
    width = max(1, len(curve.steps) // 10)
    losses = np.array(curve.losses)
    near = [losses[max(0, index - width // 2) : index + width // 2 + 1] for index in range(len(losses))]
    return Curve(curve.steps, tuple(float(window.mean()) for window in near))
