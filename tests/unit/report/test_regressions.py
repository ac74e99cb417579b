"""What training broke: every arm less its untouched student, apart from what the arms are trained for."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt, Score, Verdict
from distill.evaluate.read_scores import read_scores
from distill.evaluate.statistics import holm
from distill.grading.instructions import Followed, in_words
from distill.ops.forecast.power import planned_power
from distill.report.build import build_report
from distill.report.comparisons import MACRO
from distill.report.data import Report
from distill.report.html import render_page
from distill.report.regressions import regression_words, regressions, without_regressions
from distill.report.tables import print_report
from tests.fixtures.report_run import make_prompt, make_recipe

pytestmark = pytest.mark.usefixtures("unrendered_plots")

GYM = {"kind": "reasoning_gym", "task": "chain_sum", "size": 240}
STUDENT = "smol-135m"
STRICT = {"": 0.6, "short": 0.2, "long": 0.5, "mix-long": 0.7}
"""Share of prompts whose instructions are all followed strictly."""
LOOSE = {"": 0.6, "short": 0.4, "long": 0.6, "mix-long": 0.9}
NUM = 40


def recipe_of(**changes: Any) -> Recipe:
    benchmarks = {
        "easy": {"source": GYM | {"seed": 1, "size": NUM}},
        "hard": {"source": GYM | {"seed": 2, "size": NUM}},
        "other": {"source": GYM | {"seed": 3, "size": NUM}, "regression": True},
    }
    named = ["easy", "instructions-60", "hard", "harmless-40", "other"]
    return make_recipe(
        **{
            "students": [{"name": STUDENT, "model": STUDENT}],
            "benchmarks": benchmarks,
            "evaluate": {"benchmarks": named},
        }
        | changes
    )


def scored_run(folder: Path, recipe: Recipe, *, is_judged: bool = True) -> RunDir:
    """Who follows less follows the first of what the other follows, so the truth is exact."""
    run_dir = RunDir(str(folder))
    prompts = [make_prompt(number, 7000) for number in range(NUM)]
    for benchmark in recipe.evaluate.benchmarks:
        run_dir.write_rows(prompts, Prompt, "prompts", "benchmarks", f"{benchmark}.parquet")
        for mix in STRICT:
            model = f"{STUDENT}@{mix}" if mix else STUDENT
            rows = [
                _score(model, benchmark, mix, prompt, place / NUM, is_judged) for place, prompt in enumerate(prompts)
            ]
            run_dir.write_rows(rows, Score, "evaluate", model, f"{benchmark}.parquet")
    return run_dir


def _score(model: str, benchmark: str, mix: str, prompt: Prompt, place: float, is_judged: bool) -> Score:
    is_correct = place < STRICT[mix]
    how = "strict" if is_correct else "loose" if place < LOOSE[mix] else "not"
    followed = [Followed("punctuation:no_comma", how), Followed("startend:quotation", "strict")]
    judge = {}
    if benchmark == "harmless-40":
        is_correct = mix != "short" or place >= 0.25  # a quarter is refused after training on short traces
        judge = {"judge_verdict": Verdict.CORRECT.value if is_judged and place < 0.5 else "", "judge": "judge-1"}
    return Score(
        *(model, benchmark, prompt.prompt_id, 0, "It is."),
        *((Verdict.CORRECT if is_correct else Verdict.INCORRECT).value, "", "rule"),
        in_words(followed) if benchmark == "instructions-60" else "",
        *(40, 20, "stop", 0, 0.0, ""),
        **judge,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    recipe = recipe_of()
    return build_report(recipe, scored_run(tmp_path_factory.mktemp("regression"), recipe))


def test_every_arm_is_compared_with_its_untouched_student_on_each_reading(report: Report) -> None:
    lines = [(one.benchmark, one.reading, one.mix) for one in report.regressions]
    readings = [("instructions-60", "strict"), ("instructions-60", "loose"), ("harmless-40", "rules")]
    readings += [("harmless-40", "judge"), ("other", "")]
    assert lines == [(*reading, mix) for reading in readings for mix in ("short", "long", "mix-long")]
    found = {(one.benchmark, one.reading, one.mix): one for one in report.regressions}
    for reading, shares in (("strict", STRICT), ("loose", LOOSE)):
        for mix in ("short", "long", "mix-long"):
            one = found["instructions-60", reading, mix]
            assert (one.untouched, one.accuracy) == pytest.approx((shares[""], shares[mix]))
            assert one.change.difference == pytest.approx(shares[mix] - shares[""])
            assert (one.change.first, one.change.second) == (f"{STUDENT}@{mix}", STUDENT)
            assert one.change.interval.covers(one.change.difference)
            assert (one.single_untouched, one.single) == pytest.approx(((1 + shares[""]) / 2, (1 + shares[mix]) / 2))
    assert found["harmless-40", "rules", "short"].change.difference == pytest.approx(-0.25)
    assert found["harmless-40", "rules", "short"].single is None


def test_only_what_the_judge_judged_counts_under_its_reading(report: Report, tmp_path: Path) -> None:
    judged = [one for one in report.regressions if one.reading == "judge"]
    assert {one.change.num_prompts for one in judged} == {NUM // 2}
    recipe = recipe_of()
    scores = read_scores(recipe, scored_run(tmp_path, recipe, is_judged=False))
    unjudged = regressions(recipe, scores, np.random.default_rng(0))
    assert "judge" not in {one.reading for one in unjudged}


def test_a_loss_is_red_where_its_interval_lies_below_zero_and_each_reading_is_corrected_alone(report: Report) -> None:
    below = {(one.benchmark, one.reading, one.mix) for one in report.regressions if one.is_below}
    assert {("instructions-60", "strict", "short"), ("harmless-40", "rules", "short"), ("other", "", "short")} <= below
    assert not any(mix == "mix-long" for *_, mix in below)
    for purpose in ("regression", "regression_second"):
        mine = [one.change for one in report.regressions if one.change.purpose == purpose]
        assert len({one.family for one in mine}) == 1 and len(mine) in (9, 6)
        assert [one.p_adjusted for one in mine] == holm([one.p_value for one in mine])


def test_they_are_no_part_of_the_means_and_of_the_other_comparisons(report: Report) -> None:
    assert report.benchmarks == ("easy", "hard")
    assert {one.benchmark for one in report.comparisons} == {"easy", "hard", MACRO}
    assert {one.benchmark for one in report.arms} == {"easy", "hard"}
    assert {one.num_benchmarks for one in report.macros} == {2}
    assert "2 benchmarks on average" in report.headline
    assert {one.benchmark for one in report.models} == {"easy", "hard", "instructions-60", "harmless-40", "other"}
    assert [one.benchmark for one in report.benchmark_rows] == list(recipe_of().evaluate.benchmarks)
    assert {one.benchmark for one in report.detectable} >= {"instructions-60", "harmless-40"}


def test_sentences_table_and_page_say_it(report: Report) -> None:
    said = [line for line in report.findings if "untouched student" in line and "arms below" in line]
    worst, milder = "`smol-135m@short` −40.0 points", "`smol-135m@long` −10.0 points"
    assert said[0].startswith(f"`instructions-60`: 2 of 3 arms below their untouched student: {worst}")
    assert milder in said[0] and said[0].endswith("(not after correction).")
    assert regression_words([one for one in report.regressions if one.mix == "mix-long"])[0] == (
        "`instructions-60`: of 1 arms none is shown below its untouched student."
    )
    page = render_page(report)
    assert '<h2 id="regression">What training broke</h2>' in page and "−40.0" in page
    section = page.partition('id="regression"')[2].partition('id="comparisons"')[0]
    assert section.count('class="bad"') == sum(one.is_below for one in report.regressions) > 0
    console = Console(file=io.StringIO(), width=240, force_terminal=True)
    print_report(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "What training broke" in shown and "\x1b[31m" in shown


def test_a_question_keeps_its_benchmark_and_a_run_of_nothing_else_keeps_all() -> None:
    asked = recipe_of(question={"benchmark": "harmless-40"})
    assert without_regressions(asked).evaluate.benchmarks == ("easy", "hard", "harmless-40")
    alone = recipe_of(evaluate={"benchmarks": ["instructions-60"]})
    assert without_regressions(alone) is alone
    plain = recipe_of(evaluate={"benchmarks": ["easy", "hard"]})
    assert without_regressions(plain) is plain


def test_the_planned_power_is_that_of_the_same_benchmarks(tmp_path: Path) -> None:
    planned = planned_power(recipe_of(), RunDir(str(tmp_path)))
    assert planned is not None and planned.benchmarks == {"easy": NUM, "hard": NUM}


def test_a_report_without_such_benchmarks_has_no_such_section(tmp_path: Path) -> None:
    recipe = recipe_of(evaluate={"benchmarks": ["easy"]})
    report = build_report(recipe, scored_run(tmp_path, recipe))
    assert report.regressions == () and "What training broke" not in render_page(report)
