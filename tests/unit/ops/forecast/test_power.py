"""The sentence of power before a run."""

import io
import random
from pathlib import Path

import pytest
from rich.console import Console

from distill.config.load import find_recipe, load_recipe
from distill.config.recipe import Recipe
from distill.core.run_dir import RECIPE, RunDir, benchmark_scores
from distill.core.schema import Score
from distill.evaluate.power import CAUTIOUS, Spread, planned_difference, planned_terms
from distill.evaluate.read_scores import expected_models
from distill.ops.doctor.preflight import power_finding
from distill.ops.forecast.power import chosen_spread, planned_power, power_words, show_power, spread_words
from tests.fixtures.report_run import make_prompt, make_recipe, make_score


def shipped(name: str, *overrides: str) -> Recipe:
    return load_recipe(find_recipe(name), overrides)


def test_a_question_is_corrected_as_the_report_does_it(tmp_path: Path) -> None:
    found = planned_power(shipped("graded-sums"), RunDir(str(tmp_path)))
    assert found is not None and len(found.candidates) == 7
    assert found.benchmarks == {"two-terms": 120, "three-terms": 120}
    assert found.difference == planned_difference(planned_terms((120, 120), 3, CAUTIOUS), 2, 7)
    words = power_words(found)
    assert words.startswith("that an arm of the question is truly 17 points better than both arms it must beat")
    assert "Holm-corrected over 7 tests; 3 seeds; 120 + 120 problems" in words
    assert spread_words(found).endswith(
        "assumed: accuracy 0.5, arm_correlation 0.3, seed_correlation 0.6, seed_spread 0.02"
    )


@pytest.mark.parametrize(("name", "tests"), [("gpu-gap", 3), ("gpu-sizes", 3), ("gpu-confound", 1)])
def test_every_gpu_experiment_says_what_it_will_show(name: str, tests: int, tmp_path: Path) -> None:
    found = planned_power(shipped(name), RunDir(str(tmp_path)))
    assert found is not None and len(found.candidates) == tests and found.benchmarks == {"math500": 500, "gsm8k": 1319}
    assert 0.07 < found.difference < 0.12


def test_a_margin_is_taken_off_the_difference_that_is_to_be_shown(tmp_path: Path) -> None:
    held, beaten = (
        planned_power(shipped("graded-sums", *overrides), RunDir(str(tmp_path)))
        for overrides in (["question.margin_points=20"], [])
    )
    assert held is not None and beaten is not None
    assert held.difference == pytest.approx(beaten.difference - 0.2)
    assert power_words(held).startswith(
        "that an arm of the question is less than 20 points below both arms it is held against, if it is truly 3 "
        "points below, on the mean of 2 benchmarks, is shown in 80 %"
    )


def test_without_a_question_it_is_about_two_arms_and_uncorrected(tmp_path: Path) -> None:
    found = planned_power(shipped("small-evidence"), RunDir(str(tmp_path)))
    assert found is not None and not found.candidates
    assert found.difference == planned_difference(planned_terms((100, 100, 100), 3, CAUTIOUS))
    assert "between two arms on the mean of 3 benchmarks" in power_words(found)
    assert "before correction" in power_words(found)


def test_a_question_about_one_benchmark_counts_only_its_problems(tmp_path: Path) -> None:
    found = planned_power(shipped("graded-sums", 'question.benchmark="two-terms"'), RunDir(str(tmp_path)))
    assert found is not None and found.benchmarks == {"two-terms": 120}


def test_a_benchmark_of_one_problem_is_said_to_show_nothing(tmp_path: Path) -> None:
    asked = shipped("graded-sums")
    plain = asked.model_copy(update={"question": None})
    for recipe, start in (
        (plain, "no true difference between two arms, however large, on the mean"),
        (asked, "no lead of an arm of the question over both arms it is held against, however large, on the mean"),
    ):
        one = {"num_prompts": 1}
        benchmarks = {name: config.model_copy(update=one) for name, config in recipe.benchmarks.items()}
        found = planned_power(recipe.model_copy(update={"benchmarks": benchmarks}), RunDir(str(tmp_path)))
        assert found is not None and set(found.benchmarks.values()) == {1}
        assert power_words(found).startswith(start)


def test_the_recipe_then_a_run_then_caution_say_how_outcomes_vary() -> None:
    recipe = shipped("graded-sums", "forecast.seed_spread=0.01")
    assert chosen_spread(recipe, None) == (CAUTIOUS._replace(seed_spread=0.01), ("assumed",) * 3 + ("recipe",))
    seen = Spread(0.2, 0.4, 0.7, 0.05)
    assert chosen_spread(recipe, seen) == (seen._replace(seed_spread=0.01), ("measured",) * 3 + ("recipe",))


def test_a_finished_run_tells_how_its_outcomes_vary(tmp_path: Path) -> None:
    recipe = make_recipe(train={"seeds": [0, 1]})
    run_dir, rng = RunDir(str(tmp_path)), random.Random(3)
    run_dir.write_bytes(recipe.model_dump_json().encode(), *RECIPE)
    for model in expected_models(recipe):
        rows = [make_score(rng, model.name, "arithmetic", make_prompt(number), number / 100) for number in range(100)]
        run_dir.write_rows(rows, Score, *benchmark_scores(model.name, "arithmetic"))
    found = planned_power(recipe, run_dir)
    assert found is not None and set(found.sources) == {"measured"}
    assert found.spread.accuracy == pytest.approx(0.5, abs=0.05)
    assert 0.2 < found.spread.arm_correlation < 0.45, "the chances of the problems are from 0 to 1: a third"
    assert found.spread.seed_spread < 0.03


def test_unknown_numbers_of_problems_are_asked_for(tmp_path: Path) -> None:
    recipe, text = shipped("imported-traces", "benchmarks.competition.num_prompts=20"), io.StringIO()
    unknown = recipe.model_copy(
        update={
            "benchmarks": {
                name: one.model_copy(update={"num_prompts": None}) for name, one in recipe.benchmarks.items()
            }
        }
    )
    show_power(unknown, RunDir(str(tmp_path)), Console(file=text, width=200))
    assert text.getvalue() == "power is unknown until problems are counted: set num_prompts of every benchmark\n"


def test_the_doctor_warns_of_a_run_that_can_only_show_large_differences(tmp_path: Path) -> None:
    two_seeds = planned_power(shipped("graded-sums", "train.seeds=[0, 1]"), RunDir(str(tmp_path)))
    large = planned_power(shipped("gpu-confound"), RunDir(str(tmp_path)))
    assert power_finding(two_seeds).status == "warning" and "seeds" in power_finding(two_seeds).remedy
    assert power_finding(large).status == power_finding(None).status == "ok"
