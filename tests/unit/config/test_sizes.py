"""`sizes`: every mix and merge once per number of prompts, from a recipe that names each once."""

import json
from pathlib import Path
from typing import Any

import pytest

from distill.config.load import load_recipe, parse_recipe
from distill.config.recipe import Recipe
from tests.fixtures.recipes import problems_of, recipe_with

MIXES: list[dict[str, Any]] = [
    {"name": "long", "policy": "single", "pool": "long"},
    {"name": "mix", "weights": {"long": 0.2, "short": 0.8}},
]


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "sized.json"
    path.write_text(json.dumps(recipe_with({"mixes": MIXES, "sizes": [100, 400], **changes})))
    return path


def sizes_of(recipe: Recipe) -> dict[str, int | None]:
    return {mix.name: mix.num_prompts for mix in recipe.mixes}


def test_every_mix_becomes_one_arm_per_size(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path))
    assert sizes_of(recipe) == {"long-100": 100, "long-400": 400, "mix-100": 100, "mix-400": 400}
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe, "a run's recipe holds the arms of all sizes"


def test_a_merge_of_one_size_is_made_of_the_mixes_of_that_size() -> None:
    merges = [{"name": "merged", "of": ["long", "mix"], "weights": [0.4, 0.6]}]
    recipe = parse_recipe(recipe_with({"mixes": MIXES, "sizes": [100, 400], "merges": merges}))
    found = {merge.name: merge.of for merge in recipe.merges}
    assert found == {"merged-100": ("long-100", "mix-100"), "merged-400": ("long-400", "mix-400")}
    assert {merge.weights for merge in recipe.merges} == {(0.4, 0.6)}


def test_overrides_address_the_recipe_as_it_was_written(tmp_path: Path) -> None:
    overrides = ["sizes=[10,20]", "mixes.mix.weights={long=0.5, short=0.5}"]
    recipe = load_recipe(written(tmp_path), overrides)
    assert sizes_of(recipe) == {"long-10": 10, "long-20": 20, "mix-10": 10, "mix-20": 20}
    assert {mix.shares["long"] for mix in recipe.mixes} == {1.0, 0.5}


def test_a_recipe_that_extends_one_with_sizes_may_do_without(tmp_path: Path) -> None:
    written(tmp_path)
    plain = tmp_path / "plain.toml"
    plain.write_text('extends = "sized.json"\nsizes = []\n')
    assert sizes_of(load_recipe(plain)) == {"long": None, "mix": None}


@pytest.mark.parametrize("sizes", [[100, 100], [0], [1.5], ["100"], [True], 100])
def test_sizes_that_are_no_different_whole_numbers_are_refused(sizes: Any) -> None:
    (problem,) = problems_of(recipe_with({"mixes": MIXES, "sizes": sizes}))
    assert problem.startswith(f"sizes: {sizes!r} are not different whole numbers above 0")
    assert "as in sizes = [100, 400]" in problem


def test_a_mix_with_a_number_of_its_own_or_searched_weights_is_refused() -> None:
    auto = {"name": "auto", "weights": "auto", "pools": ["long", "short"]}
    mixes = [MIXES[0] | {"num_prompts": 7}, auto]
    search = {"benchmark": "svamp", "num_steps": 5}
    found = problems_of(recipe_with({"mixes": mixes, "sizes": [100], "search": search}))
    assert len(found) == 2
    assert "mixes[long].num_prompts: is 7, and `sizes` gives every mix its numbers of prompts" in found[0]
    assert 'mixes[auto].weights: "auto": weights are not searched for every one of `sizes`' in found[1]


def test_a_size_beyond_the_prompts_of_the_run_is_refused() -> None:
    few = {"sources": [{"kind": "file", "path": "prompts.jsonl"}], "num_prompts": 300}
    found = problems_of(recipe_with({"mixes": MIXES[1:], "sizes": [100, 400], "prompts": few}))
    assert found == [
        "mixes[mix-400].num_prompts: 400, but prompts.num_prompts is 300\n    -> lower it, or raise prompts.num_prompts"
    ]
    found = problems_of(recipe_with({"mixes": MIXES[1:], "sizes": [400], "generate": {"enough_prompts": 200}}))
    assert "but generate.enough_prompts is 200" in found[0]


def test_both_pools_of_one_size_are_compared_with_that_size_alone() -> None:
    both = {"name": "both", "policy": "both", "pools": ["long", "short"], "num_prompts": 50}
    parse_recipe(recipe_with({"mixes": [*MIXES, both]}))
    (problem,) = problems_of(recipe_with({"mixes": [*(mix | {"num_prompts": 50} for mix in MIXES), both]}))
    assert "rows per prompt: long 1, mix 1, both 2" in problem


STEPS = {"budget": "steps", "num_steps": 40, "max_length": 256}


@pytest.mark.parametrize(
    ("train", "what"),
    [
        ({"max_length": 256}, "10 has no effect: train.budget is 'epochs'\n    -> remove it, or set train.budget"),
        (
            STEPS,
            "10 steps, and the other arms take 40: no fair comparison\n    -> remove it, or allow it with train.unmatc",
        ),
        (STEPS | {"unmatched": True}, ""),
    ],
)
def test_an_arm_takes_its_own_number_of_steps_only_where_that_is_meant(train: dict[str, Any], what: str) -> None:
    raw = recipe_with({"mixes": [MIXES[0], MIXES[1] | {"num_steps": 10}], "train": train})
    if what:
        (problem,) = problems_of(raw)
        assert problem.startswith(f"mixes[mix].num_steps: {what}")
    else:
        assert [mix.num_steps for mix in parse_recipe(raw).mixes] == [None, 10]
