"""Plots of runs with many arms."""

import re
from dataclasses import replace
from pathlib import Path

from matplotlib.axes import Axes

from distill.report.build import build_report
from distill.report.data import Report
from distill.report.figures import all_plots
from distill.report.plots import arm_colours, arm_fills, draw, legend_above
from tests.fixtures.report_run import make_recipe, make_run


def labelled(count: int, label: str = "arm") -> str:
    def paint(axes: Axes) -> None:
        for number in range(count):
            axes.plot([0, 1], [number, number], label=f"{label}-{number}")
        legend_above(axes)

    return draw(3.0, "many arms", paint)


def height(svg: str) -> float:
    found = re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)
    assert found
    return float(found[1])


def test_a_figure_grows_with_the_lines_of_its_legend() -> None:
    assert height(labelled(3)) == height(labelled(9)) < height(labelled(12)) < height(labelled(20))
    assert height(labelled(20, label="a-mix-with-a-long-name")) > height(labelled(20)), "in fewer columns"


def many(folder: Path) -> Report:
    mixes = [
        {"name": f"arm{number}", "weights": {"long": 0.01 * (number + 1), "short": 1 - 0.01 * (number + 1)}}
        for number in range(18)
    ]
    recipe = make_recipe(mixes=mixes)
    return build_report(recipe, make_run(folder, recipe, num_prompts=20, num_scored=10))


def test_arms_of_one_colour_differ_in_how_their_markers_are_filled(tmp_path: Path) -> None:
    report = many(tmp_path)
    colours, fills = arm_colours(report), arm_fills(report)
    assert len({(colours[arm], fills[arm]) for arm in report.mixes}) == len(report.mixes) >= 18
    assert fills["arm0"] == fills["arm7"] == "full" and fills["arm8"] == "none"


def test_gaps_of_one_student_name_their_arms(tmp_path: Path) -> None:
    recipe = make_recipe()
    report = build_report(recipe, make_run(tmp_path, recipe, num_prompts=30, num_scored=20))
    gap = next(one for one in report.comparisons if one.purpose == "gap")
    again = replace(gap, first=f"{gap.student}@long-again", second=f"{gap.student}@short-again")
    twice = replace(report, comparisons=(*report.comparisons, again))
    before, after = (all_plots(one)["gap"] for one in (report, twice))
    assert "long-again − short-again" in after and "long-again" not in before
