"""How a served student is asked."""

from pathlib import Path

import pytest

from distill.config.load import parse_recipe
from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, benchmark_problems, benchmark_scores
from distill.core.schema import Prompt, Score
from distill.evaluate.requests import EvaluationItem, request_rows, score_rows
from distill.grading import grade
from distill.models.chat_template import chat_messages, with_mode
from distill.ops.deploy.endpoint import BenchmarkChecker, chat_card, limits_note, smoke_checks
from serve.api.limits import Limits
from serve.api.prepare import prepared_chat
from serve.client import chosen_mode, question_turns
from serve.config import Endpoint
from serve.errors import ServeError
from tests.fixtures.benchmark_prompts import MODEL, answered, make_prompts, repeated, two_benchmarks
from tests.fixtures.mix_run import RECIPE, with_modes
from tests.fixtures.report_run import make_recipe


def test_a_reader_chooses_the_mode_and_gets_the_first_without_choosing() -> None:
    card = chat_card(parse_recipe(with_modes(RECIPE)), "s@mix-long")
    assert [chosen_mode(card), chosen_mode(card, "short")] == ["long", "short"]
    endpoint = Endpoint(name="s@mix-long", source="s", metadata=card)
    asked = {"messages": question_turns("?", card)}
    for mode, system in {"long": "Be brief.\nThink step by step.", "short": "Be brief.\nBe brief and quick."}.items():
        assert prepared_chat({**asked, "mode": mode}, endpoint)["messages"][0]["content"] == system
    with pytest.raises(ServeError, match="long, short"):
        chosen_mode(card, "medium")
    with pytest.raises(ServeError, match="without modes"):
        chosen_mode(chat_card(parse_recipe(RECIPE), "s"), "short")


EXAMPLES = [{"problem": "1 + 1?", "completion": "2"}, {"problem": "2 + {problem}?", "completion": "<think>\n</think>4"}]


@pytest.mark.parametrize("system", [None, "", "Be brief."])
@pytest.mark.parametrize("system_as", [None, "user"])
@pytest.mark.parametrize("mode", ["", "short"])
def test_a_reader_asks_as_the_evaluation_does(system: str | None, system_as: str | None, mode: str) -> None:
    how = {"system": system, "system_as": system_as, "template": "{problem} Now: {problem}", "examples": EXAMPLES}
    recipe = parse_recipe((with_modes(RECIPE) if mode else RECIPE) | {"student_chat": how})
    card, modes = chat_card(recipe, "s@mix-long"), recipe.mixes[-1].modes
    endpoint = Endpoint(name="s@mix-long", source="s", metadata=card, system_as=recipe.student_chat.system_as)
    asked = prepared_chat({"messages": question_turns("3?", card), "mode": mode or None}, endpoint)
    assert asked["messages"] == chat_messages("3?", with_mode(recipe.student_chat, modes[mode] if mode else None))


def test_the_playgrounds_problems_are_asked_as_the_benchmark_words_them(tmp_path: Path) -> None:
    recipe, run_dir = two_benchmarks(**repeated(4) | {"benchmarks": []}), RunDir(str(tmp_path))
    worded = recipe.benchmarks["other"].model_copy(update={"template": "Pick.\n{problem}"})
    recipe = recipe.model_copy(update={"benchmarks": {**recipe.benchmarks, "other": worded}})
    prompts = make_prompts(2)
    for name in recipe.evaluate.benchmarks:
        run_dir.write_rows(prompts, Prompt, *benchmark_problems(name))
    shown = [one for one in BenchmarkChecker.of(recipe, run_dir).problems() if one["benchmark"] == "other"]
    sent = request_rows(EvaluationItem(MODEL, "other", "k"), prompts, recipe)
    assert shown and {one["problem"] for one in shown} == {row["messages"][-1]["content"] for row in sent}


def test_a_smoke_check_sends_what_the_evaluation_sent(tmp_path: Path) -> None:
    recipe = two_benchmarks(**repeated(4) | {"benchmarks": []})
    worded = recipe.benchmarks["other"].model_copy(update={"template": "Pick.\n{problem}"})
    recipe = recipe.model_copy(update={"benchmarks": {**recipe.benchmarks, "other": worded}})
    run_dir, prompts, item = RunDir(str(tmp_path)), make_prompts(3), EvaluationItem(MODEL, "other", "k")
    known = {one.prompt_id: one for one in prompts}
    rows = answered(item, prompts, [r"\boxed{27}"], recipe)
    scores = score_rows(rows, known, recipe.evaluate, lambda asked: [grade(one) for one in asked])
    run_dir.write_rows(prompts, Prompt, *benchmark_problems("other"))
    run_dir.write_rows(scores, Score, *benchmark_scores(MODEL.name, "other"))
    endpoint = Endpoint(name="student", source="hub/student")
    checks = smoke_checks(recipe, run_dir, [MODEL], [endpoint])
    sent = [(row["messages"], row["sampling"]) for row in request_rows(item, prompts, recipe)]
    assert checks and all((list(one.messages), dict(one.sampling)) in sent for one in checks)
    assert {one.messages[-1]["content"].partition("\n")[0] for one in checks} == {"Pick."}
    limited = {"max_output_tokens": 12, "max_prompt_chars": len(checks[0].messages[-1]["content"])}
    capped = smoke_checks(within_limits(recipe, **limited), run_dir, [MODEL], [endpoint])
    assert [one.sampling["max_tokens"] for one in capped] == [12] * len(checks)
    assert smoke_checks(within_limits(recipe, max_prompt_chars=5), run_dir, [MODEL], [endpoint]) == []


def within_limits(recipe: Recipe, **limits: int) -> Recipe:
    return recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"limits": Limits(**limits)})})


def test_limits_below_what_was_scored_are_said_and_others_are_not() -> None:
    recipe = make_recipe()
    asked = recipe.evaluate.sampling.max_tokens
    assert limits_note(recipe, has_checks=True) == ""
    assert limits_note(within_limits(recipe, max_output_tokens=asked), has_checks=True) == ""
    assert f"answers end after {asked - 1} tokens" in limits_note(
        within_limits(recipe, max_output_tokens=asked - 1), has_checks=True
    )
    assert "answers are not compared" in limits_note(within_limits(recipe, max_prompt_chars=1), has_checks=False)


def test_there_is_no_smoke_check_where_every_answer_was_sampled(tmp_path: Path) -> None:
    recipe = make_recipe(evaluate=repeated(2))
    assert smoke_checks(recipe, RunDir(str(tmp_path)), [MODEL], [Endpoint(name="student", source="hub/student")]) == []


def test_a_student_that_writes_its_mode_is_left_to_choose_without_choosing() -> None:
    *others, last = with_modes(RECIPE)["mixes"]
    recipe = parse_recipe(RECIPE | {"mixes": [*others, last | {"modes_in": "completion"}]})
    card = chat_card(recipe, "s@mix-long")
    assert card["modes_in"] == "completion" and list(card["modes"]) == ["long", "short"]
    assert [chosen_mode(card), chosen_mode(card, "short"), chosen_mode(card, "auto")] == ["auto", "short", "auto"]
