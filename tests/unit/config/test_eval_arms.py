"""What is refused of an evaluation arm when a recipe is read: one clear error each."""

from typing import Any

import pytest

from distill.config.load import parse_recipe
from tests.fixtures.recipes import problems_of, recipe_with

OF = {"of": "s@mix-long"}


def with_arms(*arms: dict[str, Any], **evaluate: Any) -> dict[str, Any]:
    return recipe_with({"evaluate": {"benchmarks": ["gsm8k"], "arms": list(arms), **evaluate}})


def test_every_key_makes_an_arm_and_a_list_of_budgets_makes_several() -> None:
    keys: list[dict[str, Any]] = [
        {"helper": {"model": "s"}},
        {"budget": [64, 16]},
        {"share": {"model": "s", "share": 0.25}},
        {"extend": {"times": 1}},
        {"end_bias": -3},
        {"language": "fr"},
        {"think": False},
    ]
    recipe = parse_recipe(with_arms(*(OF | key for key in keys)))
    assert [plan.suffix for arm in recipe.evaluate.arms for plan in arm.plans] == [
        "+s",
        "+budget-64",
        "+budget-16",
        "+share",
        "+extend",
        "+end_bias",
        "+language",
        "+think",
    ]


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"budget": [16], "think": False}, "exactly one of helper, budget"),
        ({}, "this one has none"),
        ({"think": True}, "Input should be False"),
        ({"language": "xx"}, "no opening is known for language 'xx'"),
        ({"extend": {"cue": "Wait"}}, "no answer would come"),
        ({"extend": {"times": 1, "cue": " "}}, "the cue is empty"),
        ({"extend": {"times": 1, "cue": "So</think>"}}, "holds the end of the reasoning"),
        ({"helper": {"model": "t"}}, "no model is served as 't'"),
        ({"share": {"model": "t", "share": 0.5}}, "share.model: no model is served as 't'"),
        ({"of": "s@mix", "think": False}, "no model is scored as 's@mix'"),
        ({"of": ["s@mix-long", "s@mix"], "think": False}, "no model is scored as 's@mix'"),
        ({"of": [], "think": False}, "at least 1 item"),
        ({"mode": "auto"}, "knows none"),
        ({"mode": "long"}, "Input should be 'auto'"),
        ({"budget": [8, 8]}, "8 is listed twice"),
        ({"budget": [4096]}, "the plain student has that budget"),
        ({"budget": [0]}, "greater than or equal to 1"),
        ({"end_bias": 0}, "0 changes nothing"),
    ],
)
def test_an_arm_that_no_student_could_follow_is_refused(arm: dict[str, Any], said: str) -> None:
    (problem,) = problems_of(with_arms(OF | arm))
    assert problem.startswith("evaluate.arms[0]") and said in problem


def test_a_cue_for_every_token_never_ends() -> None:
    (problem,) = problems_of(with_arms(OF | {"extend": {"times": 16}}, sampling={"max_tokens": 16}))
    assert "the cue never ends" in problem


@pytest.mark.parametrize("key", [{"budget": [16]}, {"extend": {"times": 1}}, {"end_bias": 1}, {"think": False}])
def test_a_budget_on_a_student_without_thinking_marks_is_refused(key: dict[str, Any]) -> None:
    (problem,) = problems_of(with_arms(OF | key, reasoning_end=""))
    assert "nothing marks where the reasoning of 's@mix-long' ends" in problem


def test_two_arms_of_a_student_have_two_names() -> None:
    extended = {"extend": {"times": 1}}, {"extend": {"times": 2}}
    (problem,) = problems_of(with_arms(*(OF | arm for arm in extended)))
    assert "2 arms of 's@mix-long' are named 'extend'" in problem
    (problem,) = problems_of(with_arms({"of": ["s", "s"], "think": False}))
    assert "2 arms of 's' are named 'think'" in problem
    parse_recipe(with_arms(*(OF | arm | {"name": f"wait-{number}"} for number, arm in enumerate(extended))))
    parse_recipe(with_arms(OF | extended[0], {"of": "s"} | extended[0]))


def test_stop_strings_of_the_evaluation_and_of_an_arm_do_not_go_together() -> None:
    (problem,) = problems_of(with_arms(OF | {"extend": {"times": 1}}, sampling={"stop": ["\n\n"]}))
    assert "cannot be combined with evaluate.sampling.stop" in problem
    parse_recipe(with_arms(OF | {"budget": [16]}, sampling={"stop": ["\n\n"]}))
