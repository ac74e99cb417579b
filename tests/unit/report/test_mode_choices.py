"""Which modes a student chose, by level, over its training seeds."""

from pathlib import Path

import pytest
from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, benchmark_problems, benchmark_scores
from distill.core.schema import Prompt, Score, Verdict
from distill.report.build import build_report
from distill.report.html import render_page
from distill.report.level_table import choice_words
from distill.report.mode_choices import mode_choices
from distill.report.tables import print_report
from distill.run.context import read_benchmark
from tests.fixtures.report_run import make_recipe, make_run

BLEND = {
    "name": "mix-long",
    "weights": {"long": 0.2, "short": 0.8},
    "modes": {"short": "Brief.", "long": "Think."},
    "modes_in": "completion",
}
ARM = "smol-135m@mix-long"


def recipe() -> Recipe:
    mixes = [{"name": name, "weights": {name: 1.0}} for name in ("short", "long")]
    return make_recipe(
        students=[{"name": "smol-135m", "model": "smol-135m"}],
        mixes=[*mixes, BLEND],
        evaluate={"benchmarks": ["arithmetic"], "arms": [{"of": ARM, "mode": "auto"}]},
    )


def completions(level: str) -> list[tuple[str, Verdict]]:
    right, wrong = Verdict.CORRECT, Verdict.INCORRECT
    if level == "2":
        return [("Brief.\n4", right), ("Brief.\n5", wrong), ("Brief.\n4", right), ("Think.\nso 4", right)]
    return [("Think.\nso 4", right), ("Think.\nso 5", wrong), ("Brief. 4", wrong), ("", Verdict.ERROR)]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run whose student was left to choose on eight problems of two levels."""
    run = make_run(tmp_path, make_recipe(), num_prompts=40, num_scored=8)
    rows, scores = [], []
    for level in ("2", "3"):
        for n, (text, verdict) in enumerate(completions(level)):
            rows.append(Prompt(f"p{level}-{n}", f"? {level} {n}", "4", "number", "s", level, "", ""))
            made = (f"{ARM}+auto", "arithmetic", rows[-1].prompt_id, 0, text, verdict.value, "4", "r", "", 9, 9)
            scores.append(Score(*made, "stop", 0, 0.0, ""))
    run.write_rows(rows, Prompt, *benchmark_problems("arithmetic"))
    run.write_rows(scores, Score, *benchmark_scores(f"{ARM}+auto", "arithmetic"))
    return run


def test_the_choices_are_counted_by_level_and_errors_are_left_out(run_dir: RunDir) -> None:
    problems = {"arithmetic": read_benchmark(run_dir, "arithmetic")}
    easy, hard, whole = mode_choices(recipe(), run_dir, problems)
    assert [one.level for one in (easy, hard, whole)] == ["2", "3", ""]
    assert (easy.chosen, easy.correct) == ({"short": 3, "long": 1}, {"short": 2, "long": 1})
    assert (hard.chosen, hard.completions) == ({"short": 0, "long": 2, "": 1}, 3)
    assert whole.chosen == {"short": 3, "long": 3, "": 1}
    assert choice_words(hard) == "short 0 %, long 67 % (50 % of them correct), none 33 % (0 % of them correct)"


@pytest.mark.usefixtures("unrendered_plots")
def test_page_and_terminal_show_the_choices(run_dir: RunDir) -> None:
    report = build_report(recipe(), run_dir)
    console = Console(record=True, width=200)
    print_report(report, console)
    for shown in (render_page(report), console.export_text()):
        assert "Modes that students chose" in shown and "long 25 % (100 % of them correct)" in shown
