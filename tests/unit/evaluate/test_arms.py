"""Evaluation arms: students that are made to answer in another way, scored beside themselves."""

from dataclasses import replace
from typing import Any

import pytest

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.evaluate.arms import arm_models, arms_of, bases_of
from distill.evaluate.models import EvaluatedModel, endpoints, same_weights, with_partners
from distill.evaluate.read_scores import expected_models
from distill.evaluate.requests import EvaluationItem, items, request_rows
from distill.evaluate.score import unscored, write_scores
from distill.report.comparisons import all_pairs
from tests.fixtures.benchmark_prompts import make_prompts
from tests.fixtures.report_run import make_recipe

PROMPTS = {"arithmetic": make_prompts(2)}


def recipe_of(*arms: dict[str, Any], seeds: tuple[int, ...] = (0,), **changes: Any) -> Recipe:
    evaluate = {"benchmarks": ["arithmetic"], "arms": list(arms)}
    return make_recipe(evaluate=evaluate, train={"seeds": seeds}, **changes)


def models_of(recipe: Recipe) -> list[EvaluatedModel]:
    """The models as they answer by themselves."""
    names = [model.name for model in expected_models(recipe) if "+" not in model.name]
    return [EvaluatedModel(name, f"weights of {name}", None, f"key of {name}") for name in names]


def scored(recipe: Recipe) -> dict[str, EvaluationItem]:
    plain = models_of(recipe)
    return {item.model.name: item for item in items([*plain, *arm_models(recipe, plain)], PROMPTS, recipe)}


SHORT = {"of": "smol-135m@short"}


def test_a_list_is_an_arm_for_each_of_it() -> None:
    who = ["smol-135m", "smol-135m@short", "smol-135m@long"]
    listed = recipe_of({"of": who, "budget": [16, 64]}, seeds=(0, 1))
    apart = recipe_of(*({"of": one, "budget": [16, 64]} for one in who), seeds=(0, 1))
    plain = models_of(listed)
    assert arm_models(listed, plain) == arm_models(apart, plain) and len(arm_models(listed, plain)) == 2 * (1 + 2 + 2)
    assert bases_of(listed) == bases_of(apart)
    assert all_pairs(listed, {}) == all_pairs(apart, {})


@pytest.mark.parametrize(
    ("arm", "name", "asked"),
    [
        ({"budget": [16]}, "budget-16", {"thinking_budget": 16}),
        ({"extend": {"times": 2}}, "extend", {"extend": {"times": 2, "cue": "Wait"}}),
        ({"end_bias": 4, "name": "soon"}, "soon", {"end_bias": 4}),
        ({"language": "de"}, "language", {"language": {"name": "de", "opening": ""}}),
        ({"think": False}, "think", {"think": False}),
        (
            {"share": {"model": "smol-8l@long", "share": 0.5}},
            "share",
            {"share": {"model": "smol-8l@long", "share": 0.5, "max_tokens": 4096}},
        ),
    ],
)
def test_an_arm_is_a_model_of_its_own_whose_requests_have_one_field_more(
    arm: dict[str, Any], name: str, asked: dict[str, Any]
) -> None:
    recipe = recipe_of(SHORT | arm)
    found = scored(recipe)
    item, plain = found[f"smol-135m@short+{name}"], found["smol-135m@short"]
    (row, *_), (alone, *_) = (request_rows(one, PROMPTS["arithmetic"], recipe) for one in (item, plain))
    assert row["model"] == "smol-135m@short" and row["sampling"] == {**alone["sampling"], **asked}
    assert row["messages"] == alone["messages"] and bases_of(recipe) == {f"short+{name}": ["short"]}
    assert same_weights([plain.model, item.model])[item.model.name] == item.model.name
    assert len(endpoints([plain.model, item.model])) == 1, "one engine answers for both"
    unmarked = [replace(one, is_marked=False) for one in models_of(recipe)]
    (other,) = (one for one in arm_models(recipe, unmarked) if one.name == item.model.name)
    assert other.key != item.model.key, "asked otherwise where it may not open its reasoning"


def test_a_changed_arm_asks_its_own_requests_again_and_no_others(tmp_path: Any) -> None:
    run_dir = RunDir(str(tmp_path))
    before = recipe_of(SHORT | {"budget": [16, 32]}, SHORT | {"extend": {"times": 2}})
    for item in scored(before).values():
        write_scores(run_dir, item, [], {})
    after = recipe_of(SHORT | {"budget": [16, 64]}, SHORT | {"extend": {"times": 3}})
    open_names = [item.model.name for item in unscored(list(scored(after).values()), run_dir)]
    assert open_names == ["smol-135m@short+budget-64", "smol-135m@short+extend"]
    assert not list(unscored(list(scored(make_recipe()).values()), run_dir)), "without arms all is there"


def test_every_training_seed_is_made_to_answer_and_its_helper_is_of_the_same_seed() -> None:
    recipe = recipe_of(SHORT | {"helper": {"model": "smol-8l@long"}}, seeds=(0, 1))
    assert [(arm.name, arm.plan.partner) for arm in arms_of(recipe)] == [
        (f"smol-135m@short@{seed}+smol-8l@long", f"smol-8l@long@{seed}") for seed in (0, 1)
    ]
    (model, *_) = [one for one in expected_models(recipe) if "+" in one.name]
    assert (model.mix, model.seed, model.cell) == ("short+smol-8l@long", 0, "")
    keys = [model.key for model in arm_models(recipe, models_of(recipe))]
    assert len(set(keys)) == 2
    untouched = recipe_of({"of": "smol-135m", "think": False}, seeds=(0, 1))
    assert [arm.name for arm in arms_of(untouched)] == ["smol-135m+think"], "it has no training seed"


def test_both_engines_of_an_answer_by_two_models_run_together() -> None:
    recipe = recipe_of(SHORT | {"share": {"model": "smol-8l@long", "share": 0.5}})
    plain = models_of(recipe)
    (shared,) = arm_models(recipe, plain)
    together, (apart,) = with_partners([*plain, shared], plain, 8), with_partners([shared], plain, 8)
    assert len(together) == 1 and shared in together[0], "both engines are up anyway"
    assert [model.name for model in apart] == [shared.name, "smol-8l@long"]


def test_a_student_that_is_left_to_choose_its_mode_is_compared_with_all_of_its_modes() -> None:
    mixes = [{"name": "mix", "weights": {"long": 0.2, "short": 0.8}, "modes": {"long": "Think.", "short": "Be brief."}}]
    recipe = recipe_of({"of": "smol-135m@mix", "mode": "auto"}, mixes=mixes)
    moded = [
        EvaluatedModel(f"smol-135m@mix:{mode}", "w", None, "k", mode=str(mode), asked_as=asked)
        for mode, asked in recipe.mixes[0].modes.items()
    ]
    (model,) = arm_models(recipe, moded)
    assert (model.name, model.served_name, model.asked_as) == ("smol-135m@mix+auto", "smol-135m@mix", None)
    (item,) = items([model], PROMPTS, recipe)
    row = next(request_rows(item, PROMPTS["arithmetic"], recipe))
    assert row["sampling"]["mode"] == "auto" and all(turn["role"] == "user" for turn in row["messages"])
    assert bases_of(recipe) == {"mix+auto": ["mix:long", "mix:short"]}
    assert "mix+auto" in [one.mix for one in expected_models(recipe)]
