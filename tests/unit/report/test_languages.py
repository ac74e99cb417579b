"""Languages and levels in a report: shares of the reasoning, accuracy by level and language, over seeds."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, benchmark_problems, benchmark_scores
from distill.core.schema import Prompt, Score, Verdict
from distill.evaluate.read_scores import read_scores
from distill.report.arms import build_arms
from distill.report.build import build_report
from distill.report.html import render_page
from distill.report.languages import language_scores, language_words, level_scores
from distill.report.level_table import level_table
from distill.report.tables import print_report
from distill.run.context import read_benchmark
from tests.fixtures.report_run import make_recipe, make_run

LANGUAGES = {"levels-de": "de", "levels-zh": "zh"}


def recipe() -> Recipe:
    source = {"kind": "file", "path": "rows.jsonl", "answer_kind": "choice"}
    return make_recipe(
        benchmarks={name: {"source": source | {"language": code}} for name, code in LANGUAGES.items()},
        evaluate={"benchmarks": [*LANGUAGES]},
        students=[{"name": "smol-135m", "model": "smol-135m"}],
    )


def prompts(benchmark: str, language: str) -> list[Prompt]:
    """Twelve problems, four of each level."""
    return [
        Prompt(f"{benchmark}-{n:02}", f"? {n}", "B", "choice", "s", str(n % 3 + 1), "", "", language=language)
        for n in range(12)
    ]


def score(model: str, benchmark: str, prompt: Prompt, told: tuple[str, int, int]) -> Score:
    number = int(prompt.prompt_id[-2:])
    verdict = Verdict.NO_ANSWER if number == 11 else Verdict.CORRECT if prompt.level == "1" else Verdict.INCORRECT
    row = (model, benchmark, prompt.prompt_id, 0, "text", verdict.value, "B", "r", "", 9, 9, "stop", 0, 0.0, "")
    language, letters, own = told
    return Score(*row, reasoning_language=language, answer_language=language, told_letters=letters, own_letters=own)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run whose students reason half in the prompts' language, the untouched one not at all."""
    found, run = recipe(), make_run(tmp_path, make_recipe(), num_prompts=40, num_scored=10)
    for benchmark, language in LANGUAGES.items():
        rows = prompts(benchmark, language)
        run.write_rows(rows, Prompt, *benchmark_problems(benchmark))
        for mix in ("", *(one.name for one in found.mixes)):
            model = f"smol-135m@{mix}" if mix else "smol-135m"
            scores = []
            for n, prompt in enumerate(rows):
                told = ("en", 100, 0) if not mix else ("", 0, 0) if n == 0 else (language, 80, 80 if n % 2 else 0)
                scores.append(score(model, benchmark, prompt, told))
            run.write_rows(scores, Score, *benchmark_scores(model, benchmark))
    return run


def test_the_share_of_the_reasoning_in_the_prompts_language(run_dir: RunDir) -> None:
    arms = build_arms(recipe(), read_scores(recipe(), run_dir))
    problems = {name: read_benchmark(run_dir, name) for name in LANGUAGES}
    found = {(one.mix, one.language): one for one in language_scores(run_dir, arms, problems)}
    assert set(found) == {(mix, code) for mix in ("", "short", "long", "mix-long") for code in ("de", "zh")}
    untouched, trained = found["", "de"], found["long", "de"]
    assert (untouched.in_own, untouched.reasoning, untouched.told) == (0.0, {"en": 1.0}, 12)
    assert (trained.told, trained.completions, trained.reasoning) == (11, 12, {"de": 1.0})
    assert trained.in_own == pytest.approx(6 / 11)
    assert 0.0 < trained.in_own_interval.low < 6 / 11 < trained.in_own_interval.high < 1.0
    assert (trained.answers_told, trained.answers_in_own) == (11, 1.0)
    assert trained.accuracy == pytest.approx(4 / 12)
    words = language_words([trained])
    assert words == [
        "`smol-135m@long` on `levels-de`: 55 % of its reasoning is in the prompts' language (de); most of a reasoning "
        "is in de 100 %."
    ]


def test_accuracy_by_level_and_language_with_counts(run_dir: RunDir) -> None:
    arms = build_arms(recipe(), read_scores(recipe(), run_dir))
    problems = {name: read_benchmark(run_dir, name) for name in LANGUAGES}
    table = level_table(level_scores(arms, problems))
    assert table.columns == ["levels-de (de)", "levels-zh (zh)"]
    rows = dict(table.rows)
    assert [name[2] for name in rows if name[1] == "long"] == ["1", "2", "3", ""]
    first, third, whole = (rows["smol-135m", "long", level][0] for level in ("1", "3", ""))
    assert first and third and whole
    assert (first.accuracy, first.correct, first.completions, first.num_prompts) == (1.0, 4, 4, 4)
    assert (third.accuracy, third.correct, third.no_answer, third.completions) == (0.0, 0, 1, 4)
    assert first.interval.low < 1.0 < whole.interval.high + 1.0 and (whole.correct, whole.completions) == (4, 12)


def test_the_page_and_the_terminal_show_both_tables(run_dir: RunDir, unrendered_plots: None) -> None:
    report = build_report(recipe(), run_dir)
    page = render_page(report)
    assert "By the language of the prompts" in page and "By level and language" in page
    assert "levels-zh (zh)" in page and "4 of 12, 1 without answer" in page
    console = Console(width=240, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, console)
    said = console.export_text()
    assert "reasoning in it [95 %]" in said and "4 of 12, 1 without answer" in said


def test_a_run_without_languages_or_choices_has_neither_table(tmp_path: Path) -> None:
    plain = make_recipe()
    report = build_report(plain, make_run(tmp_path, plain, num_prompts=40, num_scored=10))
    assert report.languages == () and report.levels == ()


def test_scores_of_before_there_were_languages_have_none(run_dir: RunDir, tmp_path: Path) -> None:
    old = RunDir(str(tmp_path / "old"))
    table = run_dir.read_table(*benchmark_scores("smol-135m", "levels-de"), row_type=Score)
    kept = [name for name in table.schema.names if not name.endswith(("_language", "_letters"))]
    old.write_table(table.select(kept), *benchmark_scores("smol-135m", "levels-de"))
    arms = build_arms(recipe(), read_scores(recipe(), old))
    (one,) = language_scores(old, arms, {"levels-de": read_benchmark(run_dir, "levels-de")})
    assert one.told == 0 and one.in_own is None and not np.isnan(one.accuracy or np.nan)
