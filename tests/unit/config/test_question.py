"""The primary question: which arms it is about, and what it refuses."""

from typing import Any

import pytest

from distill.config.identity import stage_parts
from distill.config.load import parse_recipe
from distill.config.question import candidates
from distill.config.recipe import Recipe
from tests.fixtures.recipes import problems_of, recipe_with

BLEND = {"weights": {"long": 0.2, "short": 0.8}}
PURE = [{"name": name, "policy": "single", "pool": name} for name in ("long", "short")]
MIXES: list[dict[str, Any]] = [*PURE, {"name": "mix", **BLEND}, {"name": "first", **BLEND, "stratify": ["level"]}]
MERGES = [{"name": "merged", "of": ["long", "short"]}]


def asked(question: dict[str, Any], **changes: Any) -> dict[str, tuple[str, ...]]:
    recipe = parse_recipe(recipe_with({"mixes": MIXES, "merges": MERGES, "question": question, **changes}))
    return compared(recipe)


def compared(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    assert recipe.question is not None
    found = candidates(recipe.question, recipe.mixes, recipe.merges)
    return {one.arm: one.over for one in found}


def test_by_default_every_blend_and_merge_is_to_beat_all_pure_arms() -> None:
    assert asked({}) == dict.fromkeys(("mix", "first", "merged"), ("long", "short"))


def test_arms_may_be_named() -> None:
    assert asked({"arms": ["first"], "over": ["mix", "long"]}) == {"first": ("mix", "long")}


def test_a_mix_with_modes_stands_for_all_of_them() -> None:
    modes = {"long": "Think.", "short": "Be brief."}
    mixes = [*PURE, {"name": "mix", **BLEND, "modes": modes}]
    assert asked({}, mixes=mixes, merges=[]) == dict.fromkeys(("mix:long", "mix:short"), ("long", "short"))
    assert asked({"arms": ["mix:short"]}, mixes=mixes, merges=[]) == {"mix:short": ("long", "short")}


def test_arms_are_to_beat_those_of_as_many_prompts() -> None:
    found = asked({"arms": ["mix"]}, sizes=[10, 40])
    assert found == {"mix-10": ("long-10", "short-10"), "mix-40": ("long-40", "short-40")}
    assert "merged-40" in asked({}, sizes=[10, 40])


def test_a_blend_that_no_pure_arm_equals_in_steps_is_asked_about_only_by_name() -> None:
    train = {"max_length": 256, "budget": "steps", "num_steps": 90, "unmatched": True}
    mixes = [*MIXES, {"name": "mix-24", **BLEND, "num_steps": 24}]
    assert "mix-24" not in asked({}, mixes=mixes, train=train)
    raw = recipe_with({"mixes": mixes, "train": train, "question": {"arms": ["mix-24"]}})
    (problem,) = problems_of(raw)
    assert problem.startswith("question.over: none of it teaches as many prompts in as many steps as 'mix-24'")


@pytest.mark.parametrize(
    ("question", "what"),
    [
        ({"arms": ["fist"]}, "question.arms: no mix and no merge is called 'fist'\n    -> did you mean 'first'?"),
        ({"over": ["lnog"]}, "question.over: no mix and no merge is called 'lnog'\n    -> did you mean 'long'?"),
        ({"arms": ["mix"], "over": ["mix", "long"]}, "question.over: 'mix' is one of question.arms too"),
        ({"benchmark": "gsm8"}, "question.benchmark: 'gsm8' is not evaluated\n    -> did you mean 'gsm8k'?"),
        ({"arm": ["mix"]}, "question.arm: "),
    ],
)
def test_what_a_question_cannot_be_about_is_refused(question: dict[str, Any], what: str) -> None:
    (problem,) = problems_of(recipe_with({"mixes": MIXES, "merges": MERGES, "question": question}))
    assert problem.startswith(what)


def test_a_question_without_arms_to_compare_is_refused() -> None:
    (problem,) = problems_of(recipe_with({"mixes": PURE, "question": {}}))
    assert problem.startswith("question: no mix of several pools and no merge has a mix of a single pool")


def test_a_question_changes_the_report_alone() -> None:
    plain, question = (
        stage_parts(parse_recipe(recipe_with({"mixes": MIXES, **change}))) for change in ({}, {"question": {}})
    )
    assert [stage for stage in plain if plain[stage] != question[stage]] == ["report"]
    assert "question" not in plain["report"], "reports of before are not stale"
