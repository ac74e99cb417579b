"""What verified traces and common prompts cost, counted by hand on a few traces."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.config.recipe import Recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt
from distill.report.build import build_report
from distill.report.formats import usd
from distill.report.groups import listed_groups
from distill.report.html import render_page
from distill.report.pools import Traces
from distill.report.score_data import TraceCost
from distill.report.trace_costs import read_levels, trace_costs
from tests.fixtures.report_run import make_prompt, make_recipe, make_run

ROWS = [  # prompt, pool, verdict, tokens, finish
    ("easy", "long", "CORRECT", 100, "stop"),
    ("easy", "long", "INCORRECT", 300, "stop"),
    ("easy", "short", "CORRECT", 10, "stop"),
    ("hard", "long", "INCORRECT", 500, "length"),
    ("hard", "long", "CORRECT", 200, "stop"),
    ("hard", "short", "INCORRECT", 30, "stop"),
    ("hard", "short", "CORRECT", 20, "length"),
]
LEVELS = {"easy": "1", "hard": "2"}


def traces() -> Traces:
    prompts, pools, verdicts, tokens, finishes = map(list, zip(*ROWS, strict=True))
    names = np.asarray([str(number) for number in range(len(ROWS))], dtype=np.str_)
    columns = [np.asarray(column, dtype=np.str_) for column in (prompts, pools, verdicts)]
    is_cut, is_dropped = np.asarray(finishes) == "length", np.zeros(len(tokens), np.bool_)
    return Traces(names, *columns, np.asarray(tokens), is_cut, is_dropped)


def recipe(**prices: float) -> Recipe:
    teachers = [
        {"name": name, "model": "smol-135m", "style": name, "usd_per_million_tokens": prices.get(name, 0.0)}
        for name in ("long", "short")
    ]
    return make_recipe(teachers=teachers)


def lines(costs: list[TraceCost]) -> dict[tuple[str, str], TraceCost]:
    return {(one.pool or "all", one.level or "all"): one for one in costs}


def generated(this_session: int, pools: tuple[str, ...] = ("long", "short")) -> Manifest:
    tokens = {"long": 1100, "short": 60}
    recorded = {name: {"traces": 4, "completion_tokens": tokens[name]} for name in pools}
    details: dict[str, Any] = {"pools": recorded, "this_session": {"tokens": this_session}, "busy_s": 8.0}
    return Manifest("generate", "k", details=details)


def test_a_verified_trace_costs_the_wrong_ones_too() -> None:
    found = lines(trace_costs(recipe(), traces(), LEVELS, None))
    assert len(found) == 3 * 3
    long = found["long", "all"]
    assert (long.traces, long.verified, long.tokens) == (4, 2, 1100)
    assert (long.tokens_per_verified, long.common_prompts, long.tokens_per_common) == (550.0, 1, 1100.0)
    assert found["all", "all"].tokens_per_verified == (1100 + 60) / 4
    assert found["all", "1"].tokens_per_common == 410.0
    hard = found["short", "2"]
    assert (hard.tokens_per_verified, hard.common_prompts, hard.tokens_per_common) == (50.0, 0, None), (
        "its correct trace was cut off, so no mix can draw it"
    )


def test_dollars_are_those_of_teachers_with_a_price() -> None:
    one = lines(trace_costs(recipe(long=2.0), traces(), {}, None))
    assert one["long", "all"].usd_per_verified == pytest.approx(1100 * 2e-6 / 2)
    assert one["short", "all"].usd_per_verified is None and one["all", "all"].usd_per_verified is None
    both = lines(trace_costs(recipe(long=2.0, short=1.0), traces(), {}, None))
    assert both["all", "all"].usd_per_common == pytest.approx(1100 * 2e-6 + 60 * 1e-6)
    assert [usd(value) for value in (None, 0.0000123, 0.0012, 3.456, 12.345)] == [
        "not recorded", "0.000012", "0.0012", "3.5", "12.35",
    ]  # fmt: skip


def test_engine_time_is_recorded_for_all_teachers_together_where_one_session_wrote_all() -> None:
    whole = lines(trace_costs(recipe(), traces(), LEVELS, generated(1160)))
    assert whole["all", "all"].engine_s_per_verified == 2.0 and whole["all", "all"].engine_s_per_common == 8.0
    assert whole["long", "all"].engine_s_per_verified is None and whole["all", "1"].engine_s_per_verified is None
    resumed = lines(trace_costs(recipe(), traces(), LEVELS, generated(900)))
    assert resumed["all", "all"].engine_s_per_verified is None, "an earlier session's time is not recorded"


def test_the_only_teacher_that_was_asked_has_the_engines_time() -> None:
    source = {"kind": "file", "path": "traces.jsonl"}
    imported = {"name": "short", "kind": "dataset", "style": "short", "source": source}
    asked = {"name": "long", "model": "smol-135m", "style": "long"}
    only = make_recipe(teachers=[asked, imported])
    found = lines(trace_costs(only, traces(), {}, generated(1100)))
    assert found["long", "all"].engine_s_per_verified == 4.0
    assert found["short", "all"].engine_s_per_verified is None


def test_levels_are_listed_where_there_are_a_few(tmp_path: Path) -> None:
    def levels(count: int) -> list[str]:
        run_dir = RunDir(str(tmp_path / str(count)))
        prompts = [
            Prompt(f"p{number}", "q", "1", "number", "s", f"Level {number % count}", "", "") for number in range(30)
        ]
        run_dir.write_rows(prompts, Prompt, "prompts", "prompts.parquet")
        return listed_groups(read_levels(run_dir).values())

    assert levels(1) == [] and levels(15) == []
    assert levels(14) == [f"Level {number}" for number in range(14)], "the tenth stands behind the ninth"
    assert listed_groups(["b", "aa", ""], by="subject") == ["aa", "b"]


@pytest.mark.usefixtures("unrendered_plots")
def test_the_report_has_the_costs(tmp_path: Path) -> None:
    one = make_recipe()
    report = build_report(one, make_run(tmp_path, one, num_prompts=40, num_scored=10))
    assert [line.pool for line in report.trace_costs] == ["long", "short", ""]
    assert make_prompt(0).level == "" and report.trace_costs[2].engine_s_per_verified is None
    page = render_page(report)
    table = page[page.index("Cost of verified traces") :]
    assert "not recorded" in table[: table.index("</table>")] and "USD" not in table[: table.index("</table>")]


def test_an_empty_run_has_no_costs(tmp_path: Path) -> None:
    assert build_report(make_recipe(), RunDir(str(tmp_path))).trace_costs == ()
