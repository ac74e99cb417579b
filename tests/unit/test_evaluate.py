"""What models are asked and how the answers become scores, without an engine."""

from pathlib import Path
from typing import Any

import numpy as np

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt, Score, Verdict, prompt_id
from distill.evaluate.models import Evaluated, helped_models, same_weights, with_helped
from distill.evaluate.read_scores import Model, expected_models, read_scored
from distill.evaluate.requests import Item, items, request_rows, score_rows
from distill.grading import grade
from distill.report.comparisons import all_pairs
from distill.report.model_scores import model_score
from distill.run.stage_keys import stage_configs
from tests.unit.test_report import make_recipe

MODEL = Evaluated("student", "hub/student", None, "key")


def make_prompts(num: int = 6) -> list[Prompt]:
    problems = [(f"What is {n} + 27?", f"{n + 27}.0") for n in range(num)]
    return [Prompt(prompt_id(text), text, gold, "number", "s", "", "", "") for text, gold in problems]


def repeated(num_samples: int) -> dict[str, Any]:
    return {"benchmarks": ["arithmetic"], "repeated": {"arithmetic": {"num_samples": num_samples}}}


def two_benchmarks(**evaluate: Any) -> Recipe:
    source = {"kind": "reasoning_gym", "task": "chain_sum", "seed": 5}
    named = {"arithmetic": {"source": source}, "other": {"source": source | {"seed": 6}}}
    return make_recipe(benchmarks=named, evaluate={**evaluate, "benchmarks": list(named)})


def answered(item: Item, prompts: list[Prompt], texts: list[str], recipe: Any) -> list[dict[str, Any]]:
    rows = list(request_rows(item, prompts, recipe))
    common = {"finish_reason": "stop", "prompt_tokens": 9, "completion_tokens": 12, "error": ""}
    return [row | common | {"completion": texts[n % len(texts)]} for n, row in enumerate(rows)]


def test_a_repeated_benchmark_is_asked_warm_with_a_seed_for_each_completion() -> None:
    recipe, item = make_recipe(evaluate=repeated(4)), Item(MODEL, "arithmetic", "k")
    rows = list(request_rows(item, make_prompts(), recipe))
    assert len(rows) == 24 and len({row["sampling"]["seed"] for row in rows}) == 24
    assert {row["sampling"]["temperature"] for row in rows} == {0.6}
    greedy = list(request_rows(item, make_prompts(), make_recipe()))
    assert len(greedy) == 6 and {row["sampling"]["temperature"] for row in greedy} == {0.0}


def test_scores_of_other_benchmarks_and_of_older_recipes_stay_valid() -> None:
    plain, more = (two_benchmarks(**changes) for changes in ({}, repeated(4)))
    prompts = {"arithmetic": make_prompts(), "other": make_prompts()}
    keys = [[item.key for item in items([MODEL], prompts, recipe)] for recipe in (plain, more)]
    assert keys[0][0] != keys[1][0] and keys[0][1] == keys[1][1]
    assert "repeated" not in stage_configs(plain, Path())["evaluate"]["evaluate"]
    assert "repeated" in stage_configs(more, Path())["evaluate"]["evaluate"]


def test_a_benchmark_can_have_words_of_its_own_around_its_problems() -> None:
    plain = two_benchmarks()
    named = {name: one.model_copy(update={"template": "Pick.\n{problem}"}) for name, one in plain.benchmarks.items()}
    worded = plain.model_copy(update={"benchmarks": {**plain.benchmarks, "other": named["other"]}})
    prompts = {"arithmetic": make_prompts(), "other": make_prompts()}
    before, after = (items([MODEL], prompts, recipe) for recipe in (plain, worded))
    assert before[0].key == after[0].key and before[1].key != after[1].key
    asked = next(request_rows(after[1], make_prompts(), worded))["messages"][-1]["content"]
    assert asked == "Pick.\nWhat is 0 + 27?"
    states = [stage_configs(recipe, Path()) for recipe in (plain, worded)]
    assert states[0]["prompts"] == states[1]["prompts"] and states[0]["evaluate"] != states[1]["evaluate"]


def test_an_answer_that_equals_a_float_is_correct_and_the_string_comparison_says_otherwise(tmp_path: Any) -> None:
    recipe, item, prompts = make_recipe(evaluate=repeated(2)), Item(MODEL, "arithmetic", "k"), make_prompts(1)
    loop = "the same eight words again and again and " * 40
    rows = answered(item, prompts, [r"\boxed{27}", loop], recipe)
    scores = score_rows(
        rows, {one.prompt_id: one for one in prompts}, recipe.evaluate, lambda asked: [grade(one) for one in asked]
    )
    assert [score.verdict for score in scores] == [Verdict.CORRECT, Verdict.NO_ANSWER]
    assert [score.string_match for score in scores] == ["INCORRECT", "NO_ANSWER"]
    assert [score.seed for score in scores] == [row["sampling"]["seed"] for row in rows]
    run_dir = RunDir(str(tmp_path))
    run_dir.write_rows(scores, Score, "evaluate", "student", "arithmetic.parquet")
    found = model_score(read_scored(run_dir, Model("student", "student", "", None), "arithmetic"))
    assert (found.accuracy, found.string_match, found.looping, found.num_samples) == (0.5, 0.0, 1, 2)
    assert [(rate.k, rate.value) for rate in found.pass_at] == [(1, 0.5), (2, 1.0)]


def test_a_request_that_failed_is_an_error_and_never_a_wrong_answer() -> None:
    recipe, item, prompts = make_recipe(), Item(MODEL, "arithmetic", "k"), make_prompts(2)
    rows = answered(item, prompts, [r"\boxed{27}"], recipe)
    rows[0] |= {"error": "timeout: no answer", "completion": None}
    scores = score_rows(
        rows, {one.prompt_id: one for one in prompts}, recipe.evaluate, lambda asked: [grade(one) for one in asked]
    )
    assert [score.verdict for score in scores] == [Verdict.ERROR, Verdict.INCORRECT]
    assert scores[0].string_match == "" and np.isclose(scores[0].repetition, 0)


def test_a_helped_student_is_an_arm_of_its_own_beside_itself_alone() -> None:
    helper = {"model": "smol-8l@long", "max_tokens": 40, "triggers": ["Wait"]}
    arm = {"student": "smol-135m@short", "helper": helper}
    recipe = make_recipe(evaluate={"benchmarks": ["arithmetic"], "speculative": [arm]})
    models = [
        Evaluated(model.name, f"weights of {model.name}", None, f"key of {model.name}")
        for model in expected_models(recipe)[:-1]
    ]
    (helped,) = helped_models(recipe, models)
    assert (helped.name, helped.served_name) == ("smol-135m@short+smol-8l@long", "smol-135m@short")
    assert same_weights([*models, helped])[helped.name] == helped.name, "not the score of the student alone"
    together, (apart,) = with_helped([*models, helped], models, 8), with_helped([helped], models, 8)
    assert len(together) == 1 and helped in together[0], "both engines are up anyway"
    assert [model.name for model in apart] == [helped.name, "smol-8l@long"]
    prompts = {"arithmetic": make_prompts(1)}
    scored = {item.model.name: item for item in items([*models, helped], prompts, recipe)}
    plain = {item.model.name: item for item in items(models, prompts, make_recipe())}
    assert all(scored[name].key == item.key for name, item in plain.items()), "the other scores stay valid"
    (row,) = request_rows(scored[helped.name], prompts["arithmetic"], recipe)
    assert row["model"] == "smol-135m@short" and row["sampling"]["speculative"]["model"] == "smol-8l@long"
    (pair,) = [pair for pair in all_pairs(recipe, {}) if pair.purpose == "help"]
    assert (pair.first, pair.second) == ("short+smol-8l@long", "short")
