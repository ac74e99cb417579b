"""What models are asked and how the answers become scores, without an engine."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from distill.config.eval_command import EvalConfig
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt, Score, Verdict
from distill.evaluate.read_scores import ScoredModel, read_scored
from distill.evaluate.requests import (
    EvaluationItem,
    asked_sampling,
    interleave,
    items,
    request_rows,
    score_rows,
)
from distill.grading import grade
from distill.report.model_scores import model_score
from distill.run.stage_keys import stage_configs
from serve.api.forcing import OPENINGS
from serve.dataset_client import request_arguments
from tests.fixtures.benchmark_prompts import MODEL, answered, make_prompts, repeated, two_benchmarks
from tests.fixtures.report_run import make_recipe


def test_a_repeated_benchmark_is_asked_warm_with_a_seed_for_each_completion() -> None:
    recipe, item = make_recipe(evaluate=repeated(4)), EvaluationItem(MODEL, "arithmetic", "k")
    rows = list(request_rows(item, make_prompts(), recipe))
    assert len(rows) == 24 and len({row["sampling"]["seed"] for row in rows}) == 24
    assert {row["sampling"]["temperature"] for row in rows} == {0.6}
    greedy = list(request_rows(item, make_prompts(), make_recipe()))
    assert len(greedy) == 6 and {row["sampling"]["temperature"] for row in greedy} == {0.0}


def test_groups_are_asked_in_turn_and_a_finished_one_makes_room_for_the_next() -> None:
    groups = [
        [{"row": f"{name}{number}"} for number in range(count)] for name, count in zip("abc", (3, 1, 2), strict=True)
    ]

    def order(at_once: int) -> str:
        return " ".join(row["row"] for row in interleave(groups, at_once))

    assert order(1) == "a0 a1 a2 b0 c0 c1" and order(3) == order(99) == "a0 b0 c0 a1 c1 a2"
    assert order(2) == "a0 b0 a1 c0 a2 c1" and not list(interleave([], 2))


def test_an_endpoint_gets_the_fields_that_it_takes_and_the_record_says_so() -> None:
    fields = EvalConfig.model_validate(
        {
            "name": "m",
            "model": {"sources": ["m"]},
            "url": "http://host",
            "evaluate": {"benchmarks": ["arithmetic"]},
            "token_limit_field": "max_completion_tokens",
            "omit_sampling": ["temperature", "top_p"],
            "extra_body": {"reasoning_effort": "high", "chat_template_kwargs": {"b": 2}},
        }
    )
    recipe, item = make_recipe(student_chat={"template_options": {"a": 1}}), EvaluationItem(MODEL, "arithmetic", "k")
    (row,) = request_rows(item, make_prompts(1), recipe, fields=fields)
    limit = recipe.evaluate.sampling.max_tokens
    body = {"reasoning_effort": "high", "chat_template_kwargs": {"a": 1, "b": 2}}
    sent = request_arguments(row)
    assert sent["extra_body"] == {"max_completion_tokens": limit, **body} and sent["seed"] == row["sampling"]["seed"]
    assert not sent.keys() & {"max_tokens", "temperature", "top_p"}
    record = asked_sampling(item, recipe, fields)
    assert record["extra_body"] == fields.extra_body and record["max_tokens"] == limit
    assert "temperature" not in record and "temperature" in asked_sampling(item, recipe)


def test_scores_of_other_benchmarks_stay_valid() -> None:
    plain, more = (two_benchmarks(**changes) for changes in ({}, repeated(4)))
    prompts = {"arithmetic": make_prompts(), "other": make_prompts()}
    keys = [[item.key for item in items([MODEL], prompts, recipe)] for recipe in (plain, more)]
    assert keys[0][0] != keys[1][0] and keys[0][1] == keys[1][1]
    states = [stage_configs(recipe, Path())["evaluate"] for recipe in (plain, more)]
    assert states[0] != states[1], "the stage looks for scores that are missing"


def test_another_seed_asks_again_where_answers_are_sampled() -> None:
    prompts = {"arithmetic": make_prompts(), "other": make_prompts()}
    recipes = [two_benchmarks(**repeated(4)).model_copy(update={"seed": seed}) for seed in (1, 2)]
    first, second = ([item.answers_key for item in items([MODEL], prompts, recipe)] for recipe in recipes)
    assert first[0] != second[0] and first[1] == second[1]


def test_a_benchmark_can_have_its_own_prompt_template() -> None:
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
    recipe, item, prompts = make_recipe(evaluate=repeated(2)), EvaluationItem(MODEL, "arithmetic", "k"), make_prompts(1)
    loop = "the same few words of text again and again " * 40
    rows = answered(item, prompts, [r"\boxed{27}", loop], recipe)
    scores = score_rows(
        rows, {one.prompt_id: one for one in prompts}, recipe.evaluate, lambda asked: [grade(one) for one in asked]
    )
    assert [score.verdict for score in scores] == [Verdict.CORRECT, Verdict.NO_ANSWER]
    assert [score.string_match for score in scores] == ["INCORRECT", "NO_ANSWER"]
    assert [score.seed for score in scores] == [row["sampling"]["seed"] for row in rows]
    run_dir = RunDir(str(tmp_path))
    run_dir.write_rows(scores, Score, "evaluate", "student", "arithmetic.parquet")
    found = model_score(read_scored(run_dir, ScoredModel("student", "student", "", None), "arithmetic"))
    assert (found.accuracy, found.string_match, found.looping, found.num_samples) == (0.5, 0.0, 1, 2)
    assert [(rate.k, rate.value) for rate in found.pass_at] == [(1, 0.5), (2, 1.0)]


def test_a_request_that_failed_is_an_error_and_never_a_wrong_answer() -> None:
    recipe, item, prompts = make_recipe(), EvaluationItem(MODEL, "arithmetic", "k"), make_prompts(2)
    rows = answered(item, prompts, [r"\boxed{27}"], recipe)
    rows[0] |= {"error": "timeout: no answer", "completion": None}
    scores = score_rows(
        rows, {one.prompt_id: one for one in prompts}, recipe.evaluate, lambda asked: [grade(one) for one in asked]
    )
    assert [score.verdict for score in scores] == [Verdict.ERROR, Verdict.INCORRECT]
    assert scores[0].string_match == "" and np.isclose(scores[0].repetition, 0)


def in_language(code: str) -> dict[str, Prompt]:
    return {one.prompt_id: dataclasses.replace(one, language=code) for one in make_prompts(2)}


def test_a_prompt_with_a_language_has_scores_that_say_in_which_it_was_answered() -> None:
    recipe, item = make_recipe(evaluate=repeated(2)), EvaluationItem(MODEL, "arithmetic", "k")
    opening = OPENINGS["fr"]
    written = "<think>\nIch addiere die beiden Zahlen Schritt für Schritt.\n</think>\n\nDie Antwort ist 1,25."
    texts = [written, f"<think>\n{opening}\nI add the two numbers step by step.\n</think>\n\n7"]
    for code in ("de", ""):
        prompts = in_language(code)
        rows = answered(item, list(prompts.values())[:1], texts, recipe)
        first, second = score_rows(rows, prompts, recipe.evaluate, lambda all: [*map(grade, all)], opening=opening)
        if code:
            assert (first.reasoning_language, first.answer_language) == ("de", "de")
            assert first.own_letters == first.told_letters > 0
            assert (second.reasoning_language, second.answer_language, second.own_letters) == ("en", "", 0)
        else:
            assert {first.reasoning_language, second.reasoning_language} == {""} and first.told_letters == 0


def test_what_decides_verdicts_alone_leaves_the_answers_their_key() -> None:
    """The language of prompts, their references and the verifier: nothing is asked again for them."""
    recipe, prompts = make_recipe(), make_prompts(2)
    told = [list(in_language(code).values()) for code in ("", "de", "fr")]
    corrected = [dataclasses.replace(prompts[0], reference="28"), prompts[1]]
    found = [items([MODEL], {"arithmetic": asked}, recipe)[0] for asked in (*told, corrected)]
    assert len({item.answers_key for item in found}) == 1
    assert len({item.verdicts_key for item in found}) == len({item.key for item in found}) == 4


def test_a_decimal_comma_is_read_in_the_prompts_language() -> None:
    recipe, item = make_recipe(evaluate=repeated(2)), EvaluationItem(MODEL, "arithmetic", "k")
    for code, verdict in (("de", Verdict.CORRECT), ("en", Verdict.INCORRECT)):
        (prompt,) = [dataclasses.replace(one, reference="1.234") for one in [*in_language(code).values()][:1]]
        rows = answered(item, [prompt], [r"\boxed{1,234}"], recipe)
        (score, _) = score_rows(rows, {prompt.prompt_id: prompt}, recipe.evaluate, lambda all: [*map(grade, all)])
        assert score.verdict == verdict
